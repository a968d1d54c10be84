"""Where the columns lie inside a slot: pure arithmetic that writer and reader repeat.

::

    slot  | region of column 0 | pad | region of column 1 | pad | ... | heap: bytes of strings, bytes, objects ->      |
          ^ multiple of 64           ^ multiple of 64                 ^ grows upward

A region holds ``capacity`` rows: of a fixed column the values themselves in C order, of any other column pairs of
uint32 (offset from the slot's start, length) that point into the heap. Behind the columns' regions come those of masks,
a byte for each row: 1 where the row has a value.
"""

from __future__ import annotations

import functools
import itertools
import math

import msgspec

from tfos_fast.channel.schema.columns import Schema
from tfos_fast.channel.schema.kinds import NUMBERS, way_of
from tfos_fast.errors import RowTooLarge

#: Regions start at multiples of this many bytes, so that a slot that starts at one gives aligned arrays.
ALIGNMENT = 64
#: Heap offsets are uint32.
MAX_SLOT_BYTES = 2**32 - 1
#: No slot holds more rows, however small they are (a row without columns has no bytes at all).
MAX_ROWS = 2**20
#: Bytes of memory that the rows of a slot may take for values without a byte in it: None, arrays and lists without a number.
MAX_FREE = 64 << 20
_NONE, _ARRAY, _LIST = 8, 128, 64


class Layout(msgspec.Struct, frozen=True):
    """The place of every column of a slot.

    Parameters
    ----------
    schema : Schema
        The columns.
    capacity : int
        Rows for which the regions have room.
    offsets : tuple of int
        Bytes from the slot's start to each column's region.
    masks : tuple of int
        The same for each column's mask; -1 where it has none.
    heap : int
        Bytes from the slot's start to the heap.
    slot_bytes : int
        Size of the slot.
    """

    schema: Schema
    capacity: int
    offsets: tuple[int, ...]
    masks: tuple[int, ...]
    heap: int
    slot_bytes: int

    def roomier(self, heap_per_row: float | None = None) -> Layout:
        """Lay the same slot out for fewer rows, so that there is more room for the heap.

        Parameters
        ----------
        heap_per_row : float, optional
            Bytes that a row needs in the heap. Without it, half the rows.
        """
        if heap_per_row is None:
            return layout(self.schema, max(self.capacity // 2, 1), self.slot_bytes)
        return plan(self.schema, self.slot_bytes, batch=1, heap_per_row=heap_per_row)


@functools.lru_cache(64)
def free_bytes(schema: Schema) -> int:
    """Bytes of memory, about, that a row takes for values without a byte in its slot."""
    taken = 0
    for column in schema.columns:
        if column.kind == "null":
            taken += _NONE
        elif column.kind == "fixed" and 0 in column.shape:
            taken += _LIST * empty_lists(column.shape) if way_of(column).rows == NUMBERS else _ARRAY
    return taken


def empty_lists(shape: tuple[int, ...]) -> int:
    """How many lists a value of this shape is, which has a 0 in it."""
    return sum(itertools.accumulate(shape[: shape.index(0)], lambda a, b: a * b, initial=1))


def has_heap(schema: Schema) -> bool:
    """Whether any column keeps its values in the heap."""
    return any(column.in_heap for column in schema.columns)


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def _regions(sizes: list[int], capacity: int) -> tuple[tuple[int, ...], int]:
    offsets, end = [], 0
    for size in sizes:
        start = _aligned(end)
        offsets.append(start)
        end = start + size * capacity
    return tuple(offsets), end


def layout(schema: Schema, capacity: int, slot_bytes: int) -> Layout:
    """Place the columns for a number of rows. The same arguments give the same layout in every process.

    Parameters
    ----------
    schema : Schema
        The columns.
    capacity : int
        Rows, at least 0.
    slot_bytes : int
        Size of the slot.

    Raises
    ------
    RowTooLarge
        When the regions are larger than the slot.
    ValueError
        When capacity is negative or a slot is larger than offsets of 32 bits can reach.
    """
    if capacity < 0:
        raise ValueError(f"capacity must not be negative, is {capacity}")
    if not 0 < slot_bytes <= MAX_SLOT_BYTES:
        raise ValueError(f"slot_bytes must be between 1 and {MAX_SLOT_BYTES}, is {slot_bytes}")
    regions, heap = _regions(_sizes(schema), capacity)
    if heap > slot_bytes:
        raise RowTooLarge(f"{capacity} rows need {heap} bytes, a slot has {slot_bytes}; make slot_bytes larger")
    columns = len(schema.columns)
    rest = iter(regions[columns:])
    masks = tuple(next(rest) if column.mask else -1 for column in schema.columns)
    return Layout(schema, capacity, regions[:columns], masks, heap, slot_bytes)


def _sizes(schema: Schema) -> list[int]:
    """Bytes of a row in each region: the columns', then the masks'."""
    return [column.row_bytes for column in schema.columns] + [1 for column in schema.columns if column.mask]


def plan(schema: Schema, slot_bytes: int, *, batch: int, heap_per_row: float) -> Layout:
    """Choose how many rows a slot is laid out for: the largest multiple of ``batch``, or what fits when no batch does.

    Parameters
    ----------
    schema : Schema
        The columns.
    slot_bytes : int
        Size of the slot.
    batch : int
        Rows of one batch of the reader; 0 when it is not known yet: then a power of two is taken for likely.
    heap_per_row : float
        Bytes that a row is expected to need in the heap; an estimate, so one row is planned for whatever it is.

    Raises
    ------
    RowTooLarge
        When the regions of a single row are larger than the slot.
    """
    sizes = _sizes(schema)
    _, single = _regions(sizes, 1)
    if single > slot_bytes:
        way = f"make slot_bytes at least {_aligned(single)} (of run, reserve or Channel.create)"
        raise RowTooLarge(f"one row needs {single} bytes, a slot has {slot_bytes}; {way}")

    def fits(rows: int) -> bool:
        return _regions(sizes, rows)[1] + math.ceil(rows * heap_per_row) <= slot_bytes

    # fits is monotone, and one row is allowed in any case. Beside what the rows need there is less than a line for each region.
    each, rows = sum(sizes) + heap_per_row, min(MAX_ROWS, MAX_FREE // max(1, free_bytes(schema)))
    most = int(min(rows, slot_bytes / each + 1)) if each else rows
    least = int(min(rows, (slot_bytes - ALIGNMENT * len(sizes) - 1) / each)) if each else rows
    low, high = max(1, min(least, most)), max(1, most)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    # A slot of whole 2^k rows holds whole batches of any smaller power of two, and wastes an eighth at most.
    batch = batch or 1 << max(0, (low // 8).bit_length() - 1)
    capacity = low - low % batch if low >= batch else low
    return layout(schema, capacity, slot_bytes)
