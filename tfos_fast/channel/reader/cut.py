"""Cuts a delivered slot into batches: its columns are decoded once, and a batch is then a slice of each.

Small batches are bound by what a batch costs beside its memory: finding the columns, their types and whether they are aligned is
done once for a slot here, and tensors are made of its memory without an array for each batch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tfos_fast.channel.codec.decode import columns as decode_columns
from tfos_fast.channel.codec.decode import convert
from tfos_fast.channel.codec.layout import Layout
from tfos_fast.channel.reader.batch import Columns
from tfos_fast.channel.schema.columns import Schema
from tfos_fast.native.dlpack import Exporter
from tfos_fast.values.aligned import ALIGNMENT, is_aligned


class Cutter:
    """The rows of one slot.

    Parameters
    ----------
    where : Layout
    lease : buffer
        The slot. Held until the cutter and all arrays made by it are gone.
    rows : int
        Rows in the slot.
    pinned : Schema
        What the columns must be; rows of an older schema are converted.

    Attributes
    ----------
    grain : int
        A cut that starts at a multiple of so many rows has every column at a multiple of 64 bytes. 0: look at each.
    """

    def __init__(self, where: Layout, lease: Any, rows: int, pinned: Schema) -> None:
        self.grain = 0
        self._exporter: Exporter | None = None
        self._where, self._lease, self._pinned = where, lease, pinned
        self._whole: list[tuple[str, Any]] | None = None
        if where.schema.columns == pinned.columns and all(column.kind in ("fixed", "unused") for column in pinned.columns):
            whole = decode_columns(where, lease, 0, rows)
            self._whole = list(whole.items())
            arrays = [array for array in whole.values() if isinstance(array, np.ndarray)]  # all of them, as they are fixed
            if all(map(is_aligned, arrays)):
                # Powers of two: the largest is a multiple of the others.
                self.grain = max((ALIGNMENT // math.gcd(array.strides[0], ALIGNMENT) for array in arrays), default=1)

    def capsules(self, start: int, stop: int) -> list[Any]:
        """The columns of some rows as DLPack capsules, where ``grain`` is not 0. Memory is not copied.

        Raises
        ------
        BufferError
            DLPack has no such dtype.
        """
        if self._exporter is None:
            assert self._whole is not None
            self._exporter = Exporter([array for _, array in self._whole])
        return self._exporter.capsules(start, stop)

    def __call__(self, start: int, stop: int) -> Columns:
        """Columns of some rows. Memory is not copied where columns are fixed."""
        if self._whole is not None:
            return {name: array[start:stop] for name, array in self._whole}
        columns = decode_columns(self._where, self._lease, start, stop)
        schema = self._where.schema
        return columns if schema.columns == self._pinned.columns else convert(columns, schema, self._pinned, stop - start)
