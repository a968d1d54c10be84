"""Values of a ragged column: all items in one array, and where each row begins."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfos_fast.values.dtypes import cast_values


class Ragged:
    """Rows of lists whose lengths differ, as ``tf.RaggedTensor`` has them. Never aliases a slot.

    Parameters
    ----------
    values : ndarray
        Shape ``(items, *inner)``; for text and bytes an object array.
    splits : sequence of ndarray
        Row splits of each ragged dimension from the outside in: int64, from 0. Items of a dimension's row ``i`` are the rows
        ``splits[i]`` to ``splits[i + 1]`` of the next one (of the values, for the last).

    Examples
    --------
    >>> ragged = Ragged(np.array([1, 2, 3]), [np.array([0, 2, 2, 3])])
    >>> len(ragged), ragged.tolist()
    (3, [[1, 2], [], [3]])
    """

    __slots__ = ("splits", "values")

    def __init__(self, values: np.ndarray, splits: Sequence[np.ndarray]) -> None:
        self.values = values
        self.splits = tuple(splits)

    def __len__(self) -> int:
        return len(self.splits[0]) - 1

    def __repr__(self) -> str:
        values = f"{self.values.dtype}{list(self.values.shape)}"
        return f"Ragged({len(self)} rows, {len(self.splits)} ragged dimensions, values {values})"

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return self.values.dtype

    def __getitem__(self, rows: slice) -> Ragged:
        """Some successive rows. Values are not copied."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError("only successive rows can be had")
        stop = max(start, stop)
        splits = []
        for split in self.splits:
            part = split[start : stop + 1]
            start, stop = int(part[0]), int(part[-1])
            splits.append(part - start)
        return Ragged(self.values[start:stop], splits)

    def take(self, rows: np.ndarray) -> Ragged:
        """The rows of these numbers, in this order. Copies."""
        return concatenate([self[i : i + 1] for i in rows.tolist()]) if len(rows) else self[0:0].copy()

    def copy(self) -> Ragged:
        """With memory of its own."""
        return Ragged(self.values.copy(), [split.copy() for split in self.splits])

    def cast(self, dtype: str) -> Ragged | None:
        """With another element type; None when a value does not fit."""
        values = cast_values(self.values, dtype, cast=True)
        return None if values is None else Ragged(values, self.splits)

    def tolist(self) -> list[Any]:
        """Nested Python lists."""
        items: list[Any] = self.values.tolist()
        for split in reversed(self.splits):
            bounds = split.tolist()
            items = [items[a:b] for a, b in itertools.pairwise(bounds)]
        return items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tolist())


def concatenate(parts: Sequence[Ragged]) -> Ragged:
    """Rows of several, one behind the other. Copies."""
    splits = []
    for level in range(len(parts[0].splits)):
        pieces, begin = [np.zeros(1, np.int64)], 0
        for part in parts:
            pieces.append(part.splits[level][1:] + begin)
            begin += int(part.splits[level][-1])
        splits.append(np.concatenate(pieces))
    return Ragged(np.concatenate([part.values for part in parts]), splits)


def from_array(array: np.ndarray, ragged_dims: int) -> Ragged:
    """An array ``(rows, ...)`` whose first dimensions are to be ragged. Values are not copied."""
    splits = []
    rows = len(array)
    for length in array.shape[1 : ragged_dims + 1]:
        splits.append(np.arange(rows + 1, dtype=np.int64) * length)
        rows *= length
    return Ragged(array.reshape(rows, *array.shape[ragged_dims + 1 :]), splits)


def deepen(ragged: Ragged, ragged_dims: int) -> Ragged:
    """The same with more ragged dimensions. Values are not copied."""
    inner = from_array(ragged.values, ragged_dims - len(ragged.splits))
    return Ragged(inner.values, [*ragged.splits, *inner.splits])
