"""The programs of examples/tfos, submitted unchanged to a standalone cluster of two executors."""

from __future__ import annotations

import pytest

from tests.spark import sparks
from tests.spark.examples import CORES, predictions, submit

pytestmark = pytest.mark.tensorflow
DIGITS = {"train": 1437, "test": 360}


@pytest.fixture(scope="module")
def master(nothing_left):
    with sparks.standalone(workers=2, cores=CORES) as address:
        yield address


@pytest.fixture(scope="module")
def csv(master, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mnist")
    submit(master, "mnist/mnist_data_setup.py", "--output", folder, "--num_partitions", 4)
    return folder / "csv"


@pytest.mark.timeout(240)
def test_the_walkthrough(master, csv, tmp_path):
    """Prepare, train, infer, each by its command."""
    for part, count in DIGITS.items():
        for kind in ("images", "labels", "images_labels"):
            parts = sorted((csv / part / kind).glob("part-*"))
            assert [path.name for path in parts] == [f"part-{i:05}" for i in range(4)]
            assert sum(len(path.read_text().splitlines()) for path in parts) == count

    def mnist_spark(mode, part, *more):
        folder = csv / part
        how = ["--cluster_size", 2, "--images", folder / "images", "--labels", folder / "labels", "--format", "csv"]
        how += ["--mode", mode, "--model", tmp_path / "mnist_model", *more]
        submit(master, "mnist/mnist_spark.py", *how, py_files="mnist/mnist_dist.py")

    mnist_spark("train", "train", "--epochs", 10, "--batch_size", 32)
    assert (tmp_path / "mnist_model" / "saved_model.pb").exists()
    output = tmp_path / "predictions"
    mnist_spark("inference", "test", "--output", output)
    assert {"part-00000", "part-00003", "_SUCCESS"} <= {path.name for path in output.iterdir()}
    rows, right = predictions(output)
    assert rows == DIGITS["test"]
    assert right > 0.9 * rows
