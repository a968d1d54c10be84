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


@pytest.mark.long
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


def keras_program(master, csv, folder, name, images_labels, *more):
    """Train with a program of keras/, and read the test digits with mnist_inference.py."""
    export = folder / "mnist_export"
    how = ["--cluster_size", 2, "--export_dir", export]
    training = [*how, "--images_labels", images_labels, "--model_dir", folder / "mnist_model", "--batch_size", 32, *more]
    submit(master, f"keras/{name}", *training, py_files="keras/mnist_model.py")
    assert (export / "saved_model.pb").exists()
    assert list((folder / "mnist_model").glob("weights-0003*"))
    output = folder / "predictions"
    files = csv / "test" / "images_labels"
    submit(master, "keras/mnist_inference.py", *how, "--images_labels", files, "--output", output, py_files="keras/mnist_model.py")
    assert sorted(path.name for path in output.iterdir()) == ["part-00000", "part-00001"]
    rows, right = predictions(output)
    assert rows == DIGITS["test"]
    assert right > 0.8 * rows


@pytest.mark.long
@pytest.mark.timeout(240)
def test_keras_fed_by_spark(master, csv, tmp_path):
    keras_program(master, csv, tmp_path, "mnist_spark.py", csv / "train" / "images_labels", "--epochs", 5)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_keras_with_all_data_in_memory(master, csv, tmp_path):
    files = csv / "train" / "images_labels"
    keras_program(master, csv, tmp_path, "mnist_tf.py", files, "--epochs", 5, "--test", csv / "test" / "images_labels")


@pytest.mark.long
@pytest.mark.timeout(240)
def test_keras_with_datasets_of_files(master, csv, tmp_path):
    files = csv / "train" / "images_labels" / "part-*"
    keras_program(master, csv, tmp_path, "mnist_tf_ds.py", files, "--epochs", 3, "--steps_per_epoch", 40)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_segmentation(master, tmp_path):
    how = ["--cluster_size", 2, "--images", 32, "--epochs", 1, "--steps_per_epoch", 6, "--batch_size", 4]
    keras2 = {"spark.executorEnv.TF_USE_LEGACY_KERAS": "1"}
    submit(master, "segmentation/segmentation_spark.py", *how, "--export_dir", tmp_path / "export", conf=keras2)
    assert (tmp_path / "export" / "saved_model.pb").exists()
