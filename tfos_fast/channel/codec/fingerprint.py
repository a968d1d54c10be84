"""Whether a partition that is computed again is the one whose first rows were delivered: what both sides note of it.

A *proof* is a sum over some values of the rows that were published, and the columns that they were packed by. Sums over parts of a
partition add up to that of the whole, however it was cut. Rows that were packed by other columns look different; where the columns
of a feed have changed meanwhile, nothing is compared.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from tfos_fast.channel.codec.layout import Layout
from tfos_fast.channel.schema.columns import NO_PLACE, Column
from tfos_fast.native.fingerprint import sample

DENSE = 32  # the first rows of a partition, each of which is looked at
PER_SLOT = 8  # rows of a slot that are looked at behind these: each may cost a miss of every cache
COLUMNS = 4  # of these rows
_SUM = (1 << 62) - 1
MIXED = -1


class Proof(msgspec.Struct, frozen=True, array_like=True):
    """Of the rows of a partition that were published until now.

    ``columns`` says by which columns: 0 when there are none yet, MIXED when there were several sets of them.
    """

    total: int = 0
    columns: int = 0

    def extended(self, total: int, columns: int) -> Proof:
        """With those of further rows."""
        return Proof((self.total + total) & _SUM, columns if self.columns in (0, columns) else MIXED)

    def tells(self, other: Proof) -> bool:
        """Whether the two, of as many rows, can be compared."""
        return self.columns == other.columns not in (0, MIXED)


@lru_cache(maxsize=256)
def mark(columns: tuple[Column, ...]) -> int:
    """A number for a set of columns, the same in every process."""
    return int.from_bytes(hashlib.blake2b(msgspec.msgpack.encode(columns), digest_size=7).digest(), "big") + 1


@lru_cache(maxsize=256)
def _sampled(layout: Layout) -> tuple[int, Any, Any, Any]:
    """Every how many rows one is looked at, which columns of it, where they lie, and bytes of their values."""
    columns = layout.schema.columns
    # Pickles of equal objects may differ; others have no bytes.
    those = [i for i, column in enumerate(columns) if column.kind not in ("object", *NO_PLACE)]
    those = those[:: -(-len(those) // COLUMNS)] if those else []
    widths = [-1 if columns[i].in_heap else columns[i].row_bytes for i in those]
    row_bytes = max(1, sum(column.row_bytes for column in columns))
    stride = max(1, layout.slot_bytes // row_bytes // PER_SLOT)
    return stride, np.array(those, np.int64), np.array([layout.offsets[i] for i in those], np.int64), np.array(widths, np.int64)


class Prover:
    """Sums over the values of one writer's slots, most of which are laid out alike."""

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._places: Any = None

    def total(self, layout: Layout, window: Any, first: int, rows: int) -> int:
        """Of the rows in a slot, the first of which is row ``first`` of the partition."""
        if layout is not self._layout:
            self._layout, self._places = layout, _sampled(layout)
        stride, columns, offsets, widths = self._places
        return sample(window, first, rows, DENSE, stride, columns, offsets, widths)
