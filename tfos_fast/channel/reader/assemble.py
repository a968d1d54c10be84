"""From delivered slots to batches of columns. Pure: no sockets, no slots' states; the reader tells it what arrived.

A batch aliases its slot when its rows lie together in one slot. The rest is copied:

- the tail of a *partition* goes to the carry and leaves with later tails, so it never shifts the slots behind it;
- a tail in *mid*-partition (the writer was asked to publish early) waits for the next slot of its own stream, so the order inside a
  partition is kept;
- a column whose address is not a multiple of 64 is copied to memory where it is: what is not aligned never reaches DLPack.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from tfos_fast.channel.reader.batch import AnyBatch, Batch, Columns, PlainBatch
from tfos_fast.values.aligned import aligned_copy, join, may_alias


@dataclass
class Piece:
    """Some rows of one stream, privately owned."""

    stream: int
    rows: int
    columns: Columns


@dataclass
class Slot:
    """A delivered slot that is being read: ``cut(start, stop)`` gives its columns, aliasing it."""

    stream: int
    rows: int
    cut: Any
    alias: bool  # False: a hoarding reader gets copies, so that the slot comes back
    grain: int = 0  # cuts that start at a multiple of so many rows are aligned; 0: look at each column
    cursor: int = 0


class Assembler:
    """Cuts delivered slots into batches.

    Attributes
    ----------
    aliased, copied : int
        Batches handed out without and with a copy of at least one column.
    """

    def __init__(self) -> None:
        self.aliased = 0
        self.copied = 0
        self._slot: Slot | None = None
        self._carry: deque[Piece] = deque()
        self._pending: dict[int, deque[Piece]] = {}

    @property
    def wants_slot(self) -> bool:
        """Whether the next slot may be pushed."""
        return self._slot is None

    @property
    def waiting_rows(self) -> int:
        """Rows in the carry and in unfinished streams."""
        return _count(self._carry) + sum(_count(pieces) for pieces in self._pending.values())

    def push(self, slot: Slot) -> None:
        """A slot to cut next; only when ``wants_slot``."""
        assert self._slot is None
        self._slot = slot if slot.rows else None

    def end_stream(self, stream: int) -> None:
        """Nothing more comes of this stream: its tail goes to the carry."""
        self._carry.extend(self._pending.pop(stream, ()))

    def take(self, n: int, most: int = 1) -> AnyBatch | None:
        """The next batch of ``n`` rows, or None when more slots are needed. A finished slot is let go at once.

        With ``most`` up to so many batches come together as one, if they lie behind each other in one slot.
        """
        if self._carry and _count(self._carry) >= n:
            return self._merge(self._carry, n)
        slot = self._slot
        if slot is None:
            return None
        left = slot.rows - slot.cursor
        pending = self._pending.get(slot.stream) if self._pending else None
        if pending:
            need = min(left, n - _count(pending) % n if _count(pending) < n else 0)
            if need:
                self._to_pending(slot, need)
            return self._merge(self._pending[slot.stream], n) if _count(self._pending[slot.stream]) >= n else None
        if left >= n:
            return self._cut(slot, n, min(most, left // n))
        self._to_pending(slot, left)
        return None

    def inside(self, n: int) -> PlainBatch | None:
        """The next batch of ``n`` rows where that is a slice of a plain slot which has rows left afterwards; None elsewhere.

        What ``take`` would give, for less: small batches are bound by what each costs beside its memory.
        """
        slot = self._slot
        if slot is None or not slot.alias or not slot.grain or self._carry or self._pending:
            return None
        start = slot.cursor
        if slot.rows - start <= n or start % slot.grain:
            return None
        slot.cursor = start + n
        self.aliased += 1
        return PlainBatch(slot.cut, start, n, slot.stream)

    def run(self) -> Batch | None:
        """All rows that are left of the slot, aligned or not, or None when a slot is needed. Their order is not kept."""
        slot = self._slot
        if slot is None:
            return None
        rows = slot.rows - slot.cursor
        columns = slot.cut(slot.cursor, slot.rows)
        if not slot.alias:
            columns = {name: array.copy() for name, array in columns.items()}
        self._advance(slot, rows)
        return Batch(columns, rows, [(slot.stream, rows)], aliased=slot.alias)

    def rest(self, n: int) -> Batch | None:
        """The last rows, at most ``n`` at a time: what is in the carry and in streams that will not go on."""
        for stream in list(self._pending):
            self.end_stream(stream)
        have = _count(self._carry)
        return self._merge(self._carry, min(n, have)) if have else None

    def clear(self) -> None:
        """Drop everything; the counters stay."""
        self._slot = None
        self._carry.clear()
        self._pending.clear()

    def _cut(self, slot: Slot, n: int, batches: int) -> AnyBatch:
        start = slot.cursor
        n *= batches
        stream = slot.stream
        alias = slot.alias
        self._advance(slot, n)
        if alias and slot.grain and not start % slot.grain:
            self.aliased += batches
            return PlainBatch(slot.cut, start, n, stream)
        columns = slot.cut(start, start + n)
        copied = False
        for name, array in columns.items():
            if not alias or not may_alias(array):
                columns[name] = aligned_copy(array)
                copied = True
        if copied:
            self.copied += batches
        else:
            self.aliased += batches
        return Batch(columns, n, [(stream, n)], aliased=alias)

    def _to_pending(self, slot: Slot, n: int) -> None:
        columns = slot.cut(slot.cursor, slot.cursor + n)
        piece = Piece(slot.stream, n, {name: array.copy() for name, array in columns.items()})
        self._pending.setdefault(slot.stream, deque()).append(piece)
        self._advance(slot, n)

    def _advance(self, slot: Slot, n: int) -> None:
        slot.cursor += n
        if slot.cursor == slot.rows:
            self._slot = None

    def _merge(self, pieces: deque[Piece], n: int) -> Batch:
        parts: list[Columns] = []
        origin: list[tuple[int, int]] = []
        need = n
        while need:
            piece = pieces[0]
            used = min(need, piece.rows)
            parts.append({name: array[:used] for name, array in piece.columns.items()})
            origin.append((piece.stream, used))
            if used == piece.rows:
                pieces.popleft()
            else:
                pieces[0] = Piece(piece.stream, piece.rows - used, {k: v[used:] for k, v in piece.columns.items()})
            need -= used
        self.copied += 1
        return Batch({name: join([part[name] for part in parts], n) for name in parts[0]}, n, origin)


def _count(pieces: deque[Piece]) -> int:
    return sum(piece.rows for piece in pieces)
