"""The walkthrough from end to end: real Spark, two real TensorFlow nodes, real digits."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.demo.idx import write_classic

pytestmark = [pytest.mark.spark, pytest.mark.tensorflow, pytest.mark.timeout(500)]

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6} Label: (\d), Prediction: (\d)")


def run_demo(demo, output: Path, *arguments: str) -> str:
    """Output of the demo, which must succeed."""
    command = [sys.executable, demo.__file__, "--output", str(output), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=480)
    assert done.returncode == 0, done.stdout
    assert "left behind: no process, no socket, no segment" in done.stdout
    return done.stdout


def read_predictions(output: Path) -> list[list[tuple[int, int]]]:
    """(label, prediction) of each line, part by part."""
    parts = [part.read_text().splitlines() for part in sorted(output.glob("predictions/part-*"))]
    matches = [[LINE.fullmatch(line) for line in lines] for lines in parts]
    assert all(match for part in matches for match in part), parts[0][:3]
    return [[(int(match[1]), int(match[2])) for match in part if match] for part in matches]


def test_two_executors_and_the_bundled_digits(demo, prepare, tmp_path: Path) -> None:
    text = run_demo(demo, tmp_path)
    assert re.search(r"fed 28740 rows in 20 epochs to 2 nodes: \d+ rows per second", text)
    accuracy = re.search(r"test accuracy: ([\d.]+) %", text)
    assert accuracy, text
    assert float(accuracy[1]) > 95
    assert str(tmp_path / "predictions") in text
    # One line for each digit, in the order of its partition. (The order of the partitions is that of a folder's listing.)
    predictions = read_predictions(tmp_path)
    fed = [part.read_text().splitlines() for part in tmp_path.glob("csv/test/part-*")]
    assert sum(map(len, fed)) == len(prepare.bundled_digits()["test"][1])
    assert sorted([label for label, _ in part] for part in predictions) == sorted(
        [int(line.partition(",")[0]) for line in lines] for lines in fed
    )


@pytest.mark.long
def test_classic_files_on_local_threads(demo, prepare, tmp_path: Path) -> None:
    # The bundled digits at the classic size: each pixel three by three, within a margin of two.
    def enlarge(images: np.ndarray) -> np.ndarray:
        return np.pad(np.kron(images.reshape(-1, 8, 8), np.ones((1, 3, 3), np.uint8)), ((0, 0), (2, 2), (2, 2)))

    digits = {part: (enlarge(images), labels) for part, (images, labels) in prepare.bundled_digits().items()}
    data = tmp_path / "data"
    data.mkdir()
    write_classic(data, digits["train"], digits["test"])
    text = run_demo(demo, tmp_path / "out", "--data", str(data), "--master", "local[4]", "--epochs", "4")
    assert "wrote 1437 train digits of 784 pixels" in text
    predictions = [pair for part in read_predictions(tmp_path / "out") for pair in part]
    assert len(predictions) == 360
    assert sum(label == prediction for label, prediction in predictions) > 0.85 * 360


def test_a_program_that_fails_is_named_and_leaves_nothing(demo, tmp_path: Path) -> None:
    command = [sys.executable, demo.__file__, "--output", str(tmp_path), "--data", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "neither train-images-idx3-ubyte nor train-images-idx3-ubyte.gz is in" in done.stderr
    assert "prepare.py failed with exit status 1" in done.stderr
    assert "left behind" not in done.stderr
