"""The rows that are fed, and sums of their memory that say whether all of them came. Knows neither Spark nor tfos_fast."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CHUNK = 1000
WRAP = 1 << 64
# Made once: small batches cost the trainer more in calls like these than in reading.
_sum = np.add.reduce
_WORD = np.dtype(np.uint64)
_FEW = 512  # words that are summed faster by a product with ones than by a reduction, whose beginning costs more than they do
_UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}


def floats(i: int) -> tuple[list[float], int]:
    """784 Python floats and a label."""
    return [float((i * 31 + k) % 255) for k in range(784)], i % 10


def picture(i: int) -> tuple[np.ndarray, int]:
    """A 28x28 picture of bytes and a label."""
    return np.full((28, 28), i % 255, np.uint8), i % 10


def ten(i: int) -> tuple[tuple[float, ...], int]:
    """A tuple of ten floats and a number."""
    return tuple(float(i % 255 + k) for k in range(10)), i


def small(i: int) -> tuple[int, float]:
    """A row of two numbers."""
    return i, i * 0.5


@dataclass(frozen=True)
class Kind:
    """Rows of one kind.

    Parameters
    ----------
    title : str
    make : callable
        Number of the row -> row.
    count : int
        Rows that are cached; they are fed several times over. Enough that a partition has 100 to 180 MB of pickled rows, as Spark
        makes those of files (spark.sql.files.maxPartitionBytes: 128 MB): what a task costs to begin and end is no part of this.
    dtypes : tuple of str
        Of the columns in the trainer.
    spec : tuple of str, optional
        What the feed is told about them.
    """

    title: str
    make: Callable[[int], Any]
    count: int
    dtypes: tuple[str, ...]
    spec: tuple[str, ...] | None = None


KINDS = {
    "floats32": Kind("list of 784 floats, int; spec float32", floats, 80_000, ("float32", "int32"), ("float32", "int32")),
    "floats64": Kind("list of 784 floats, int; as they are", floats, 80_000, ("float64", "int64")),
    "pictures": Kind("28x28 uint8 array, int", picture, 800_000, ("uint8", "int64")),
    "tens": Kind("tuple of 10 floats, int", ten, 4_000_000, ("float64", "int64")),
}


def column_sum(array: np.ndarray) -> int:
    """The sum of a column's memory, modulo 2**64, whatever the order of its rows.

    Rows of whole words are summed as uint64; others (a column of float32 numbers) as unsigned integers of their own size, as which
    two of them share a word depends on the order. The sum of these is kept in the upper bits of the word: there it wraps by itself.
    """
    if not len(array):
        return 0
    flat = array.reshape(-1) if array.ndim > 1 else array
    if array.nbytes // len(array) % 8 == 0:
        return int(_sum(flat.view(_WORD)))
    kind = _UNSIGNED[array.itemsize]
    return int(_sum(flat.view(kind), dtype=kind)) << 8 * (8 - array.itemsize)


@dataclass(frozen=True)
class Sums:
    """Rows, and for each column the sum of its memory.

    Parameters
    ----------
    rows : int
    columns : tuple of int
    """

    rows: int = 0
    columns: tuple[int, ...] = ()

    def add(self, arrays: Sequence[np.ndarray]) -> Sums:
        """With a batch more."""
        return self + Sums(len(arrays[0]), tuple(column_sum(array) for array in arrays))

    def __add__(self, other: Sums) -> Sums:
        if not self.columns or not other.columns:
            return self if self.columns else other
        pairs = zip(self.columns, other.columns, strict=True)
        return Sums(self.rows + other.rows, tuple((mine + theirs) % WRAP for mine, theirs in pairs))

    def __mul__(self, times: int) -> Sums:
        return Sums(self.rows * times, tuple(value * times % WRAP for value in self.columns))


class Tally:
    """Sums of batches as they come: so that every byte is read, for as little beside that as Python allows."""

    def __init__(self) -> None:
        self._words = 0  # of the last column, in all,
        self._per_row = 1  # and of each row: an eager tensor takes longer to give its shape than 256 numbers to be summed
        self._columns: list[int] = []
        self._kinds: list[np.dtype] = []  # as which each column's memory is summed; see column_sum
        self._shifts: list[int] = []
        self._ones: dict[tuple[int, np.dtype], np.ndarray] = {}

    def add(self, columns: Sequence[Any]) -> None:
        """With a batch more: arrays or eager tensors of numbers, with the same types each time. Their memory is not copied."""
        if not self._kinds:
            arrays = [np.asarray(column) for column in columns]
            self._kinds = [_WORD if array.nbytes // len(array) % 8 == 0 else _UNSIGNED[array.itemsize] for array in arrays]
            self._shifts = [8 * (8 - kind.itemsize) for kind in self._kinds]
            self._columns = [0] * len(arrays)
            self._per_row = arrays[-1].nbytes // len(arrays[-1]) // self._kinds[-1].itemsize
        for i, column in enumerate(columns):
            kind = self._kinds[i]
            words = np.frombuffer(column, kind)
            if len(words) > _FEW:
                self._columns[i] += int(_sum(words, dtype=kind))
                continue
            ones = self._ones.get((len(words), kind))
            if ones is None:
                ones = self._ones[len(words), kind] = np.ones(len(words), kind)
            self._columns[i] += int(words.dot(ones))
        self._words += len(words)

    @property
    def sums(self) -> Sums:
        """What came so far."""
        columns = ((total << shift) % WRAP for total, shift in zip(self._columns, self._shifts, strict=True))
        return Sums(self._words // self._per_row, tuple(columns))


def sums_of(rows: Iterable[Any], dtypes: Sequence[str]) -> Sums:
    """Sums of Python rows as numpy would store them: what a trainer has to find."""
    found = Sums()
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, CHUNK)):
        found = found.add([np.asarray([row[i] for row in chunk], dtype) for i, dtype in enumerate(dtypes)])
    return found


def partition_sums(dtypes: Sequence[str]) -> Callable[[Iterable[Any]], Iterator[Sums]]:
    """For ``mapPartitions``."""

    def run(rows: Iterable[Any]) -> Iterator[Sums]:
        yield sums_of(rows, dtypes)

    return run
