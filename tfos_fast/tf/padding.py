"""Batches that all have the same number of rows, with a weight for each row: 1, or 0 for rows that only fill up.

What a node hands out under ``uneven="pad"``. Rows that fill up are zeros, empty texts and empty lists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tfos_fast.channel.reader.batch import Batch, Source
from tfos_fast.channel.schema.columns import Column
from tfos_fast.values.aligned import Values, aligned_empty, join
from tfos_fast.values.dtypes import dtype_of
from tfos_fast.values.nested import ANY_LENGTH, TEXTS
from tfos_fast.values.ragged import Ragged

WEIGHT = "sample_weight"  # name of the column of weights


class Padded:
    """A source whose batches are full.

    Parameters
    ----------
    source : callable
        ``source(most)``: some batches; no rows: the node has none for this step. None: the epoch's end.
    columns : list of Column
        What a batch has.
    n : int
        Rows in a batch.
    """

    def __init__(self, source: Source, columns: list[Column], n: int) -> None:
        self._source = source
        self._columns = columns
        self._n = n

    def __call__(self, most: int) -> Batch | None:
        """As the source, with the weights."""
        item = self._source(most)
        if item is None:
            return None
        columns, rows = item.columns, item.rows
        missing = -rows % self._n if rows else self._n
        if missing:
            fill = {column.name: zeros(column, missing) for column in self._columns}
            columns = {name: join([columns[name], fill[name]], rows + missing) for name in fill} if rows else fill
        weight = np.ones(rows + missing, np.float32)
        weight[rows:] = 0
        return Batch({**columns, WEIGHT: weight}, rows + missing)


def zeros(column: Column, rows: int) -> Values:
    """Rows that fill up."""
    if column.kind == "ragged":
        inner = tuple(length for length in column.shape if length != ANY_LENGTH)
        dtype = object if column.dtype in TEXTS else dtype_of(column.dtype)
        splits = [np.zeros(rows + 1, np.int64)] + [np.zeros(1, np.int64)] * (column.ragged_dims - 1)
        return Ragged(np.zeros((0, *inner), dtype), splits)
    if column.kind in TEXTS or column.dtype in TEXTS:
        out = np.empty((rows, *column.shape), object)
        out[...] = b"" if "bytes" in (column.kind, column.dtype) else ""
        return out
    values = aligned_empty((rows, *column.shape), dtype_of(column.dtype))
    values[...] = 0
    return values


def with_weight(batch: Any, weight: Any) -> Any:
    """A tuple such as ``(x, y)`` gets one more element, as Keras wants it; anything else becomes ``(batch, weight)``."""
    return (*batch, weight) if isinstance(batch, tuple) else (batch, weight)


def weighted(arrange: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """The function that arranges a batch's values by column name, for batches that have the column of weights besides."""

    def arranged(values: dict[str, Any]) -> Any:
        return with_weight(arrange({k: v for k, v in values.items() if k != WEIGHT}), values[WEIGHT])

    return arranged
