"""TensorFlowOnSpark's own examples, from a git checkout of it that TFOS_REPO names (`make tfos-suite`).

Only lines are changed that NumPy 2 or TensorFlow made impossible. The guide lists the same lines.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.spark import examples, sparks

REPO = os.environ.get("TFOS_REPO", "")
CORES = examples.CORES
pytestmark = [
    pytest.mark.skipif(not REPO, reason="TFOS_REPO names no checkout of TensorFlowOnSpark"),
    pytest.mark.tensorflow,
    pytest.mark.timeout(600),
]

# File -> what stands there, and what stands for it. docs/migrating-from-tfos.md has the same table.
V1 = "import tensorflow.compat.v1 as tf; tf.disable_v2_behavior()"
CHANGES = {
    "v1.4.4": {
        "examples/mnist/spark/mnist_dist.py": [("  import tensorflow as tf\n", f"  {V1}\n")],
        "examples/mnist/spark/mnist_spark.py": [],
    },
    "v2.2.5": {
        "examples/mnist/keras/mnist_spark.py": [],
        "examples/mnist/keras/mnist_inference.py": [(".astype(np.int)", ".astype(int)")],
    },
}


def checkout(tag: str, folder: Path) -> Path:
    """The examples of a version, with the lines changed that have to be."""
    shown = subprocess.run(["git", "-C", REPO, "rev-parse", f"{tag}^{{commit}}"], capture_output=True, text=True)
    if shown.returncode:
        pytest.skip(f"{REPO} is no git checkout with the tag {tag}")
    folder.mkdir()
    archive = subprocess.run(["git", "-C", REPO, "archive", tag], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    for name, lines in CHANGES[tag].items():
        text = (folder / name).read_text()
        for before, after in lines:
            assert text.count(before) == 1, (name, before)
            text = text.replace(before, after)
        (folder / name).write_text(text)
    return folder


def test_the_guide_lists_the_lines() -> None:
    guide = (sparks.ROOT / "docs" / "migrating-from-tfos.md").read_text()
    for name, lines in [(name, lines) for files in CHANGES.values() for name, lines in files.items()]:
        assert name.removeprefix("examples/mnist/") in guide
        for before, after in lines:
            assert before.strip() in guide
            assert after.strip() in guide


@pytest.fixture(scope="module")
def master(nothing_left: None) -> Iterator[str]:
    with sparks.standalone(workers=2, cores=CORES) as address:
        yield address


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits of scikit-learn in the form of MNIST's files: 28x28 pixels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.pad(np.kron(found.images / 16 * 255, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2)))
    pixels = images.round().astype(int).reshape(-1, 784)
    order = np.random.default_rng(0).permutation(len(pixels))
    lines = [",".join(map(str, row)) for row in pixels[order]]
    labels = found.target[order]
    root = tmp_path_factory.mktemp("digits")
    for name, begin, end, parts, times in (("train", 0, 1500, 10, 1), ("test", 1500, 1700, 2, 1), ("keras", 0, 1500, 10, 40)):
        step = (end - begin) // parts
        for kind in ("images", "labels", "csv"):
            (root / name / kind).mkdir(parents=True)
        for part in range(parts):
            rows = range(begin + part * step, begin + (part + 1) * step)
            texts = {
                "images": [lines[i] for i in rows],
                "labels": [",".join("1.0" if digit == labels[i] else "0.0" for digit in range(10)) for i in rows],
                "csv": [f"{labels[i]},{lines[i]}" for i in rows] * times,
            }
            for kind, text in texts.items():
                (root / name / kind / f"part-{part:05d}").write_text("\n".join(text) + "\n")
    return root


def test_the_walkthrough_of_1_4_4(master: str, digits: Path, tmp_path: Path) -> None:
    """A parameter server and a worker; tf.data reads, and the session's thread gives results."""
    folder = checkout("v1.4.4", tmp_path / "tfos") / "examples" / "mnist" / "spark"
    model, output = tmp_path / "model", tmp_path / "predictions"

    def spark(mode: str, data: Path, *more: object) -> str:
        args = ["--images", data / "images", "--labels", data / "labels", "--format", "csv", "--mode", mode, "--model", model]
        program, module = str(folder / "mnist_spark.py"), str(folder / "mnist_dist.py")
        return examples.submit(master, program, "--cluster_size", 2, *args, *more, py_files=module, seconds=280)

    said = spark("train", digits / "train", "--epochs", 2)
    assert "listening for reservations at ('" in said
    # 30 batches of 100. The program takes one of them for the accuracy that it prints at step 0.
    assert sorted(path.name for path in model.glob("model.ckpt-*.index")) == ["model.ckpt-0.index", "model.ckpt-29.index"]
    spark("inference", digits / "test", "--output", output)
    rows, right = examples.predictions(output)
    assert rows == 200
    assert right > 120


def test_keras_of_2_2_5(master: str, digits: Path, tmp_path: Path) -> None:
    """Training fed by Spark, with a feed opened as for inference; then a SavedModel on each executor."""
    import tensorflow as tf

    folder = checkout("v2.2.5", tmp_path / "tfos") / "examples" / "mnist" / "keras"
    export, records, output = tmp_path / "export", tmp_path / "records", tmp_path / "predictions"
    legacy = {"spark.executorEnv.TF_USE_LEGACY_KERAS": 1}
    train = ["--images_labels", digits / "keras" / "csv", "--model_dir", tmp_path / "model", "--export_dir", export]
    examples.submit(master, str(folder / "mnist_spark.py"), "--cluster_size", 2, "--epochs", 1, *train, conf=legacy, seconds=280)
    records.mkdir()
    for part in sorted((digits / "test" / "csv").glob("part-*")):
        with tf.io.TFRecordWriter(str(records / part.name)) as writer:
            for line in part.read_text().splitlines():
                label, *image = map(int, line.split(","))
                values = {"label": [label], "image": image}
                feature = {name: tf.train.Feature(int64_list=tf.train.Int64List(value=value)) for name, value in values.items()}
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    infer = ["--images_labels", records, "--export_dir", export, "--output", output]
    examples.submit(master, str(folder / "mnist_inference.py"), "--cluster_size", 2, *infer, conf=legacy, seconds=280)
    pairs = [line.split() for part in sorted(output.glob("part-*")) for line in part.read_text().splitlines()]
    assert len(pairs) == 200
    assert sum(label == prediction for label, prediction in pairs) > 80
