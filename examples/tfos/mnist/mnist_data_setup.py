"""Handwritten digits as CSV, in the layouts that programs for TensorFlowOnSpark read.

    spark-submit mnist_data_setup.py --output mnist

writes, for ``train`` and ``test``: ``mnist/csv/train/images`` (a line of pixels, 0 to 255, for each image), ``.../labels`` (the
one-hot label, line for line beside it) and ``.../images_labels`` (label and pixels in one line). The digits are those of 8x8
pixels that come with scikit-learn; with ``--data DIR`` the four classic files of 28x28 pixels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pyspark import SparkConf, SparkContext

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "mnist"))

from prepare import bundled_digits, idx_digits


def to_line(values) -> str:
    """Numbers as a line of CSV."""
    return ",".join(map(str, values))


def one_hot(label: int) -> list[int]:
    """Ten numbers: 1 at the label, 0 elsewhere."""
    return [int(i == label) for i in range(10)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="folder with the four IDX files (default: the bundled 8x8 digits)")
    parser.add_argument("-o", "--output", default="mnist", help="folder to write csv/ in")
    parser.add_argument("-n", "--num_partitions", type=int, default=4)
    args = parser.parse_args()

    digits = idx_digits(args.data) if args.data else bundled_digits()
    sc = SparkContext(conf=SparkConf().setAppName("mnist_data_setup"))
    for part, (images, labels) in digits.items():
        folder = f"{args.output}/csv/{part}"
        rows = sc.parallelize(list(zip(labels.tolist(), images.tolist(), strict=True)), args.num_partitions).cache()
        rows.map(lambda row: to_line(row[1])).saveAsTextFile(f"{folder}/images")
        rows.map(lambda row: to_line(one_hot(row[0]))).saveAsTextFile(f"{folder}/labels")
        rows.map(lambda row: to_line([row[0], *row[1]])).saveAsTextFile(f"{folder}/images_labels")
        print(f"wrote {len(labels)} {part} digits of {images.shape[1]} pixels to {folder}")
    sc.stop()
