"""Write handwritten digits as CSV, through Spark.

    python prepare.py --output demo-output/csv

makes the folders ``train`` and ``test`` in it, with one line ``label,pixel,pixel,...`` per digit; pixels are 0 to 255.
By default these are the 1797 digits of 8x8 pixels that come with scikit-learn, four fifths of them for training; with
``--data DIR`` the classic files of 28x28 pixels (``train-images-idx3-ubyte`` and its three sisters, or ``.gz`` ones).
"""

from __future__ import annotations

import argparse
import gzip
import struct
from pathlib import Path

import numpy as np
from pyspark.sql import SparkSession

Digits = tuple[np.ndarray, np.ndarray]  # uint8 images (rows, pixels), uint8 labels (rows,)


def bundled_digits() -> dict[str, Digits]:
    """The digits of scikit-learn, shuffled once and always in the same way."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.rint(data.data * (255 / 16)).astype(np.uint8)
    labels = data.target.astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = np.split(order, [len(order) * 4 // 5])
    return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}


def read_idx(path: Path) -> np.ndarray:
    """One IDX file of unsigned bytes, gzipped or not, as an array of its own shape."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        zero, kind, dimensions = struct.unpack(">HBB", file.read(4))
        if zero != 0 or kind != 0x08:
            raise ValueError(f"{path} is not an IDX file of unsigned bytes")
        shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
        return np.frombuffer(file.read(), np.uint8).reshape(shape)


def idx_digits(folder: Path) -> dict[str, Digits]:
    """The classic training and test set, from the four IDX files in a folder."""

    def load(name: str) -> np.ndarray:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.exists():
                return read_idx(candidate)
        raise FileNotFoundError(f"neither {name} nor {name}.gz is in {folder}")

    digits = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = load(f"{prefix}-images-idx3-ubyte"), load(f"{prefix}-labels-idx1-ubyte")
        if len(images) != len(labels):
            raise ValueError(f"{folder} has {len(images)} {part} images but {len(labels)} labels")
        digits[part] = (images.reshape(len(images), -1), labels)
    return digits


def to_line(row: tuple[int, np.ndarray]) -> str:
    """A label and its pixels as one line of CSV."""
    label, pixels = row
    return ",".join(map(str, (label, *pixels)))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the four IDX files (default: the bundled 8x8 digits)")
    parser.add_argument("--output", required=True, help="folder to write, must not exist")
    parser.add_argument("--partitions", type=int, default=4, help="text parts per set (default: 4)")
    args = parser.parse_args(argv)

    digits = idx_digits(args.data) if args.data else bundled_digits()
    spark = SparkSession.builder.appName("mnist-prepare").getOrCreate()
    for part, (images, labels) in digits.items():
        rows = zip(labels.tolist(), images, strict=True)
        spark.sparkContext.parallelize(rows, args.partitions).map(to_line).saveAsTextFile(f"{args.output}/{part}")
        print(f"wrote {len(labels)} {part} digits of {images.shape[1]} pixels to {args.output}/{part}")
    spark.stop()


if __name__ == "__main__":
    main()
