"""A slot that came over a network: it is looked at before its reader sees it, so that damage ends who sent it and nobody else.

=========================================  =======================================================================================
what its sender could do                   what is looked for here
=========================================  =======================================================================================
show what others had in the slot before    every byte that the rows use came with this message
have one value made a million times        together the values take no more bytes than were sent for them
end the reader by text or lists            text is UTF-8, and the lengths in lists are those of their values
have code run, or memory filled            :mod:`~tfos_fast.channel.untrusted.vetting` reads pickled values as data, and pickles
them anew make lists out of nothing                  :func:`check_schema`: a row has few lists without a number; and what rows take
for
                                           values without a byte has a bound for each slot, by which writers plan theirs
=========================================  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfos_fast.channel.codec.decode import read_heap
from tfos_fast.channel.codec.layout import MAX_FREE, Layout, empty_lists, free_bytes
from tfos_fast.channel.remote import wire
from tfos_fast.channel.schema.columns import Schema
from tfos_fast.channel.schema.kinds import NUMBERS, way_of
from tfos_fast.channel.untrusted.vetting import has_objects, vet
from tfos_fast.errors import SchemaMismatch

#: Rows whose text is decoded at a time: it is dropped again.
_AT_ONCE = 4096
_MOST_DOTS = 256
#: Lists that one row may have without a number in them.
_EMPTY_LISTS = 4096


def check_schema(schema: Schema) -> None:
    """Refuse columns whose values would be lists of lists without end, and take no byte of a slot; and names of very many parts.

    Raises
    ------
    SchemaMismatch
    """
    lists = 0
    for column in schema.columns:
        if column.name.count(".") > _MOST_DOTS:  # the names of all structs around it are made of it, again and again
            raise SchemaMismatch(f"column {column.name[:100]!r}...: its name has more than {_MOST_DOTS} dots")
        if way_of(column).rows != NUMBERS or 0 not in column.shape:
            continue
        lists += empty_lists(column.shape)
        if lists > _EMPTY_LISTS:
            raise SchemaMismatch(
                f"column {column.name!r}: {lists} lists without a number in one row, by the shape {list(column.shape)}; a feed "
                f"over the network takes {_EMPTY_LISTS}. Feed such values as arrays"
            )


def check_slot(where: Layout, slot: Any, rows: int, sent: Sequence[wire.Extent]) -> None:
    """Look at the rows of a slot that has just come, and make its pickled values this process's own.

    Parameters
    ----------
    where : Layout
    slot : buffer
        Writable, and nobody else writes to it.
    rows : int
    sent : sequence of (int, int)
        Offset and length of what came for it.

    Raises
    ------
    WireError
        No writer of ours fills a slot like this.
    SchemaMismatch
        A value is none that is taken over a network.
    """
    if rows > 1 and rows * free_bytes(where.schema) > MAX_FREE:
        raise wire.WireError(f"{rows} rows whose values without a byte take more than {MAX_FREE >> 20} MiB")
    _check_places(where, slot, rows)
    if not _covered(wire.used(where, slot, rows), sent):
        raise wire.WireError("a slot with rows that were not sent with it")
    for index, column in enumerate(where.schema.columns):
        if column.kind in ("string", "ragged"):
            try:
                for start in range(0, rows, _AT_ONCE):
                    read_heap(where, slot, index, start, min(start + _AT_ONCE, rows))
            except UnicodeDecodeError as error:
                raise SchemaMismatch(f"column {column.name!r}: text that is not UTF-8 ({error}); feed it as bytes") from None
            except ValueError as error:
                raise wire.WireError(f"column {column.name!r}: {error}") from None
    if has_objects(where.schema):
        vet(where, slot, rows)


def _check_places(where: Layout, slot: Any, rows: int) -> None:
    """Values lie in the heap, and not upon each other: what they take together is what the heap has up to the last one."""
    total, last = 0, where.heap
    for offset, column in zip(where.offsets, where.schema.columns, strict=True):
        if not column.in_heap or not rows:
            continue
        entries = np.frombuffer(slot, np.uint32, 2 * rows, offset)
        starts, lengths = entries[::2], entries[1::2]
        end = int((starts.astype(np.uint64) + lengths).max())
        if end > where.slot_bytes or int(starts.min(where=lengths > 0, initial=where.heap)) < where.heap:
            raise wire.WireError("a slot has a value that would lie outside of it")
        total += int(lengths.sum(dtype=np.uint64))
        last = max(last, end)
    if total > last - where.heap:
        raise wire.WireError("a slot has values that lie upon each other")


def _covered(parts: Sequence[wire.Extent], sent: Sequence[wire.Extent]) -> bool:
    """Whether each part lies in what was sent."""
    whole: list[list[int]] = []  # what was sent as first and last bytes, apart from each other
    for start, length in sorted(sent):
        if whole and start <= whole[-1][1]:
            whole[-1][1] = max(whole[-1][1], start + length)
        else:
            whole.append([start, start + length])
    rest = iter(whole)
    piece = next(rest, None)
    for start, length in sorted(parts):
        while piece is not None and piece[1] < start + length:
            piece = next(rest, None)
        if piece is None or piece[0] > start:
            return False
    return True
