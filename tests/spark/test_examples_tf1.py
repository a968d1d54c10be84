"""The TensorFlow-1 programs and model parallelism of ``examples``, on a standalone cluster of two executors."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from tests.demo.conftest import load
from tests.spark import sparks
from tests.spark.submit import submit

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(220)]
NET = "tfos/tf1/mnist_net.py"


@pytest.fixture(scope="module")
def master(nothing_left):
    with sparks.standalone(workers=2, cores=2) as address:
        yield address


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The bundled digits as text in four files, for training and for the test."""
    folder = tmp_path_factory.mktemp("digits")
    prepare = load("prepare")
    for name, (images, labels) in prepare.bundled_digits().items():
        lines = [prepare.to_line(row) for row in zip(labels, images, strict=True)]
        (folder / name).mkdir()
        for i in range(4):
            (folder / name / f"part-{i:05d}").write_text("\n".join(lines[i::4]) + "\n")
    return folder


def steps(model):
    """Where the last checkpoint stands."""
    import tensorflow as tf

    return int(tf.train.load_checkpoint(str(model)).get_tensor("global_step"))


def right(export_dir, digits):
    """Share of the test's digits that an exported model gets right, by TensorFlow alone."""
    import tensorflow as tf

    lines = [line.split(",") for part in sorted((digits / "test").iterdir()) for line in part.read_text().splitlines()]
    values = np.array(lines, np.float32)
    model = tf.saved_model.load(str(export_dir))
    prediction = model.signatures["serving_default"](images=tf.constant(values[:, 1:]))["prediction"].numpy()
    return float(np.mean(prediction == values[:, 0]))


@pytest.mark.long
def test_mnist_with_a_parameter_server(master, digits, tmp_path):
    model, export = tmp_path / "model", tmp_path / "export"
    text = submit(
        master, tmp_path, "tfos/tf1/mnist_train.py", "--cluster_size", 2, "--num_ps", 1, "--epochs", 8,
        "--input", digits / "train", "--model", model, "--export_dir", export, py_files=NET,
    )  # fmt: skip
    assert f"checkpoints in {model}, model in {export}" in text
    assert steps(model) == math.ceil(1437 * 8 / 64)
    assert right(export, digits) > 0.9


@pytest.mark.long
def test_mnist_with_two_workers_goes_on_from_its_checkpoint_and_infers(master, digits, tmp_path):
    model, export, output = tmp_path / "model", tmp_path / "export", tmp_path / "predictions"
    train = ["tfos/tf1/mnist_train.py", "--cluster_size", 3, "--input", digits / "train", "--model", model]
    submit(master, tmp_path, *train, "--steps", 50, py_files=NET)
    begun = steps(model)
    assert begun >= 50
    submit(master, tmp_path, *train, "--driver_ps_nodes", "--export_dir", export, py_files=NET)
    # Batches are full but for each worker's last one.
    assert 0 <= steps(model) - begun - 1437 * 10 // 64 <= 2
    submit(
        master, tmp_path, "tfos/tf1/mnist_inference.py", "--input", digits / "test", "--export_dir", export, "--output", output
    )  # fmt: skip
    parts = sorted(output.glob("part-*"))
    assert [part.name for part in parts] == [f"part-{i:05d}" for i in range(len(parts))]
    lines = [[re.fullmatch(r"Label: (\d), Prediction: (\d)", line) for line in part.read_text().splitlines()] for part in parts]
    labels = [[line[0] for line in part.read_text().splitlines()] for part in (digits / "test").iterdir()]
    # Each part in its order. The order of the parts is that of a folder's listing.
    assert sorted([line[1] for line in part] for part in lines) == sorted(labels)
    assert sum(line[1] == line[2] for part in lines for line in part) > 0.9 * sum(map(len, labels))


def write_records(digits, folder):
    import tensorflow as tf

    def numbers(values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    folder.mkdir()
    for part in (digits / "train").iterdir():
        with tf.io.TFRecordWriter(str(folder / part.name)) as writer:
            for line in part.read_text().splitlines():
                label, *pixels = map(int, line.split(","))
                features = tf.train.Features(feature={"image": numbers(pixels), "label": numbers([label])})
                writer.write(tf.train.Example(features=features).SerializeToString())


@pytest.mark.long
@pytest.mark.parametrize("form", ["csv", "tfr"])
def test_queue_runners_read_the_files(master, digits, tmp_path, form):
    folder, export = digits / "train", tmp_path / "export"
    if form == "tfr":
        folder = tmp_path / "records"
        write_records(digits, folder)
    submit(
        master, tmp_path, "tfos/tf1/mnist_files.py", "--cluster_size", 3, "--input", folder, "--format", form,
        "--export_dir", export, py_files=NET,
    )  # fmt: skip
    assert right(export, digits) > 0.9


@pytest.mark.long
def test_layers_on_different_nodes(master, digits, tmp_path):
    report = tmp_path / "report.json"
    submit(
        master, tmp_path, "model_parallel/layers_on_nodes.py", "--nodes", 3, "--input", digits / "train", "--report", report
    )  # fmt: skip
    seen = json.loads(report.read_text())
    nodes = {f"/job:worker/replica:0/task:{i}/device:CPU:0": [f"layer{i} multiplied", f"layer{i} updated"] for i in range(3)}
    assert seen["devices"] == nodes
    assert seen["steps"] == math.ceil(1437 * 5 / 64)
    assert np.mean(seen["accuracy"][-10:]) > 0.8


@pytest.mark.long
def test_an_embedding_partitioned_over_parameter_servers(master, tmp_path):
    report = tmp_path / "report.json"
    submit(master, tmp_path, "model_parallel/partitioned_embedding.py", "--report", report, "--epochs", 1)
    seen = json.loads(report.read_text())
    servers = [f"/job:ps/replica:0/task:{i}/device:CPU:0" for i in range(2)]
    assert seen["users"] == [{"device": server, "shape": [1000, 8]} for server in servers]
    assert seen["items"] == [{"device": server, "shape": [250, 8]} for server in servers]
    assert [part["shape"] for part in seen["bias"]] == [[500]]
    assert seen["bias"][0]["device"] in servers
    losses = seen["losses"]
    assert len(losses) == math.ceil(4 * 20_000 / 256)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
