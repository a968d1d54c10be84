"""Python objects in slots that came over a network: each is read as data and pickled anew before anybody unpickles it.

An unpickler calls what a stream names. Between processes of one user on one host that does no harm; off a socket nothing may be
executed, whoever has sent it. So ``pickles.py`` builds each value, data only, and what the slot then holds is this process's own
pickle of that value. No byte of a stream that came over the network reaches an unpickler, so it does not matter whether the two
would have understood it alike.
"""

from __future__ import annotations

import pickle
import pickletools
from typing import Any

import numpy as np

from tfos_fast.channel.codec.layout import Layout
from tfos_fast.channel.schema.columns import ENTRY_BYTES, Schema
from tfos_fast.channel.schema.kinds import is_pickled
from tfos_fast.channel.untrusted.budget import Budget, Refused
from tfos_fast.channel.untrusted.pickles import build
from tfos_fast.errors import SchemaMismatch

#: Bytes of memory that the values of a slot may take for each byte of their streams, and beside.
COST, ALLOWED = 64, 1 << 20

#: What pickle writes for a float, but for its eight bytes: numbers with None among them are the commonest objects of row mode.
_FLOAT = pickle.dumps(0.0, 5)[:-9]
_FLOAT_BYTES = len(_FLOAT) + 9
#: Short streams that this process's own pickling gives again, as they are, and what each costs: None and names come over and over.
_seen: dict[bytes, int] = {}
_SHORT, _MOST_SEEN = 64, 4096
#: Length of a stream that is an array of numbers -> what stands before and behind the numbers, and what it costs. None: seen once.
_arrays: dict[int, tuple[bytes, bytes, int] | None] = {}


def has_objects(schema: Schema) -> bool:
    """Return whether the decoder unpickles the values of some column."""
    return any(map(is_pickled, schema.columns))


def vet(where: Layout, slot: Any, rows: int) -> None:
    """Read the pickled values of a slot as data, and put this process's own pickles of them in their place.

    Parameters
    ----------
    where : Layout
    slot : buffer
        Writable, and nobody else writes to it.
    rows : int

    Raises
    ------
    SchemaMismatch
        One is of a type that is not taken over a network, cannot be read, or costs too much.
    """
    memory = memoryview(slot).cast("B")
    names = [column.name for column in where.schema.columns]
    tables: dict[int, list[Any]] = {}
    for index, column in enumerate(where.schema.columns):
        if rows and is_pickled(column):
            tables[index] = np.frombuffer(memory, np.uint32, 2 * rows, where.offsets[index]).reshape(-1, 2).tolist()
    _check_places(where, tables, names)
    budget = Budget(ALLOWED + COST * sum(length for table in tables.values() for _, length in table))
    for index, table in tables.items():
        for row, (start, length) in enumerate(table):
            stream = bytes(memory[start : start + length])
            ours = _anew(stream, names[index], row, budget)
            if ours != stream:
                memory[start : start + len(ours)] = ours
                at = where.offsets[index] + ENTRY_BYTES * row + 4
                memory[at : at + 4] = len(ours).to_bytes(4, "little")


def _learn(value: np.ndarray, stream: bytes, cost: int) -> None:
    """Note what an array's stream has around its numbers. Arrays of one shape and type come over and over."""
    if len(stream) not in _arrays:  # arrays that come once are not worth it
        if len(_arrays) >= _MOST_SEEN:
            _arrays.clear()
        _arrays[len(stream)] = None
        return
    streams = []
    for bits in (0, -1):
        other = value.copy(order="K")
        other.view(f"i{value.dtype.itemsize}")[...] = bits
        other.flags.writeable = value.flags.writeable
        streams.append(pickle.dumps(other, 5))
    if {len(each) for each in streams} != {len(stream)}:
        return
    zeros, ones = (np.frombuffer(each, np.uint8) for each in streams)
    differs = np.flatnonzero(zeros != ones)  # the numbers, all of them, and nothing else
    first, size = int(differs[0]), len(differs)
    head, tail = stream[:first], stream[first + size :]
    if size == value.nbytes and streams[0] == head + bytes(size) + tail:
        _arrays[len(stream)] = head, tail, cost


def _check_places(where: Layout, tables: dict[int, list[Any]], names: list[str]) -> None:
    """Each value lies in the heap, and apart from the others: what is written in its place changes no other one."""
    last = where.heap
    for start, length, index, row in sorted(
        (start, length, index, row) for index, table in tables.items() for row, (start, length) in enumerate(table)
    ):
        if start < last or start + length > where.slot_bytes:
            raise SchemaMismatch(f"{_place(names[index], row)}: a pickled value outside of its place: the slot is damaged")
        last = start + length


def _place(name: str, row: int) -> str:
    return f"column {name!r}, row {row} of its slot"


def _anew(stream: bytes, name: str, row: int, budget: Budget) -> bytes:
    """Pickle the value that a stream holds."""
    if len(stream) == _FLOAT_BYTES and stream.startswith(_FLOAT) and stream.endswith(b"."):
        return stream  # whatever the eight bytes between are, a float
    known = _arrays.get(len(stream))
    try:
        if known is not None and stream.startswith(known[0]) and stream.endswith(known[1]):
            budget.spend(known[2])
            return stream  # whatever the bytes between are, numbers
        cost = _seen.get(stream)
        if cost is not None:
            budget.spend(cost)
            return stream
        before = budget.left
        value = build(stream, budget)
        ours = pickle.dumps(value, 5)
        if ours == stream and type(value) is np.ndarray and value.dtype.kind in "iuf" and value.dtype.itemsize <= 8 and value.size:
            _learn(value, stream, before - budget.left)
        elif ours == stream and len(stream) <= _SHORT:
            if len(_seen) >= _MOST_SEEN:
                _seen.clear()
            _seen[stream] = before - budget.left
        if len(stream) < len(ours) <= len(stream) + len(stream) // 8 + 64:  # by another version of numpy, say
            ours = pickletools.optimize(ours)
    except Refused as why:
        raise SchemaMismatch(
            f"{_place(name, row)}: {why}, and a feed over the network takes numbers, text, bytes, arrays, dates and containers of "
            "these only; convert such values before the feed, or give each host a node (num_executors)"
        ) from None
    except Exception as error:
        raise SchemaMismatch(f"{_place(name, row)}: a pickled value that cannot be read: {error!r:.300}") from error
    if len(ours) > len(stream):
        raise SchemaMismatch(f"{_place(name, row)}: its value needs {len(ours)} bytes here, and came in {len(stream)}")
    return ours
