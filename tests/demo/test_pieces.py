"""The parts of the example programs that need neither Spark nor TensorFlow to run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.demo.idx import write_classic, write_idx


def test_bundled_digits_are_split_four_to_one_and_always_alike(prepare) -> None:
    once, again = prepare.bundled_digits(), prepare.bundled_digits()
    assert {part: images.shape for part, (images, _) in once.items()} == {"train": (1437, 64), "test": (360, 64)}
    for part, (images, labels) in once.items():
        assert images.dtype == labels.dtype == np.uint8
        assert images.max() == 255
        assert set(labels) == set(range(10))
        np.testing.assert_array_equal(images, again[part][0])
        np.testing.assert_array_equal(labels, again[part][1])


def test_classic_files_plain_and_gzipped(prepare, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    train = random.integers(0, 256, (5, 28, 28), np.uint8), np.arange(5, dtype=np.uint8)
    test = random.integers(0, 256, (3, 28, 28), np.uint8), np.arange(3, dtype=np.uint8)
    write_classic(tmp_path, train, test)
    digits = prepare.idx_digits(tmp_path)
    for part, (images, labels) in {"train": train, "test": test}.items():
        np.testing.assert_array_equal(digits[part][0], images.reshape(-1, 784))
        np.testing.assert_array_equal(digits[part][1], labels)


def test_what_is_wrong_with_classic_files_is_said(prepare, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither train-images-idx3-ubyte nor train-images-idx3-ubyte"):
        prepare.idx_digits(tmp_path)
    images, labels = np.zeros((2, 28, 28), np.uint8), np.zeros(2, np.uint8)
    write_classic(tmp_path, (images, labels), (images, labels))
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", labels[:1])
    with pytest.raises(ValueError, match="2 test images but 1 labels"):
        prepare.idx_digits(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(b"label,pixels\n" * 4)
    with pytest.raises(ValueError, match="is not an IDX file"):
        prepare.idx_digits(tmp_path)


def test_a_line_reads_back_as_the_row_it_was(prepare, train, infer) -> None:
    pixels = np.array([0, 255, 7, 128], np.uint8)
    line = prepare.to_line((9, pixels))
    assert line == "9,0,255,7,128"
    for parse in (train.parse, infer.parse):
        values, label = parse(line)
        assert values.dtype == np.uint8
        assert type(label) is int
        np.testing.assert_array_equal(values, pixels)
        assert label == 9


def test_predictions_are_counted_from_their_lines(infer) -> None:
    assert infer.is_right("2026-11-22T12:00:00.000001 Label: 7, Prediction: 7")
    assert not infer.is_right("2026-11-22T12:00:00.000001 Label: 7, Prediction: 1")


def test_leftovers_finds_processes_and_files_of_a_run(demo, tmp_path: Path) -> None:
    mark = f"test-{os.getpid()}"
    assert demo.leftovers(mark, tmp_path) == []
    (tmp_path / "socket").touch()
    # Started by a process of the run that is gone itself: nothing but the environment tells whose it is.
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
        env=os.environ | {demo.MARK: mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        process, socket = demo.leftovers(mark, tmp_path, patience=0)
        assert process.startswith(f"{child.pid} ")
        assert socket == str(tmp_path / "socket")
    finally:
        child.communicate()
    assert demo.leftovers(mark, tmp_path) == [str(tmp_path / "socket")]
