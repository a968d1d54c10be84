"""The reader's side of ``keep``: it keeps the slots of an epoch as they are opened, and deals them out again when told to.

In the order of delivery a replay is the epoch as it was: the same slots, lanes and ends of lanes go to the assembler, so the same
batches come out. With a seed the blocks come in a new order and, inside a window of some blocks, so do their batches; what is less
than a batch at a block's end goes to the carry.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tfos_fast.channel.codec.layout import Layout
from tfos_fast.channel.epochs.store import Block, Store, View
from tfos_fast.channel.protocol import messages as m

_WINDOW = 8  # blocks whose batches are mixed, and that are fetched ahead together
_ROWS = 256  # the unit of shuffling where the size of a batch is not known


@dataclass(frozen=True)
class Piece:
    """Kept rows on their way to the reader again, as a Deliver tells it of a slot."""

    layout: Layout
    buffer: Any
    stream: int
    start: int
    rows: int


@dataclass(frozen=True)
class Drawn(Piece):
    """A slot's rows in memory of their own, on their way to the reader; the broker was told that the slot is taken."""


class Keeper:
    """What one reader keeps, and how far it is in dealing it out."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self._coming: Iterator[Piece | m.StreamEnd] = iter(())
        self.ahead: Piece | m.StreamEnd | None = None  # what comes next in the replay that is under way
        self.untold = 0  # rows that were taken in the replay and not yet reported

    @property
    def keeps(self) -> bool:
        """Whether slots are to be kept."""
        return self._store is not None

    def begin(self, message: m.Keep) -> None:
        """Forget what is kept; then keep what is opened from here on, if so ordered."""
        self.clear()
        if message.kind:
            self._store = Store(message.kind, message.limit)

    def add(self, where: Layout, slot: Any, rows: int, lane: int) -> None:
        """Keep an opened slot's rows, before anybody can change them. Values are copied.

        Raises
        ------
        NotEnoughMemory, StoreFull
            They do not fit; nothing is kept any more.
        """
        if self._store is not None:
            try:
                self._store.add(where, slot, rows, lane)
            except Exception:
                self.clear()
                raise

    def end_lane(self, lane: int) -> None:
        """Keep the end of a lane."""
        if self._store is not None:
            self._store.end_lane(lane)

    def replay(self, seed: int | None, batch: int) -> None:
        """Deal out everything that is kept, by ``next``."""
        if self._store is not None:
            entries, view = self._store.entries, self._store.view()
            self._coming = in_order(entries, view) if seed is None else shuffled(entries, view, seed, batch or _ROWS)
            self.next()

    def next(self) -> Piece | m.StreamEnd | None:
        """The next kept slot, part of one, or end of a lane; None when no replay is under way."""
        item, self.ahead = self.ahead, next(self._coming, None)
        if self.ahead is None:
            self._coming = iter(())  # lets go of the mapping
        return item

    def finish(self, rows: int) -> None:
        """So many rows of the replay were handed out or carried."""
        self.untold += rows

    def told(self) -> int:
        """Rows to report now."""
        rows, self.untold = self.untold, 0
        return rows

    def clear(self) -> None:
        """Forget everything. Arrays handed out stay valid."""
        self._coming, self.ahead = iter(()), None
        self.untold = 0
        if self._store is not None:
            self._store.close()
            self._store = None


def in_order(entries: list[Block | int], view: View) -> Iterator[Piece | m.StreamEnd]:
    """The kept slots and ends of lanes as they came."""
    for at, entry in enumerate(entries):
        if at % _WINDOW == 0:
            _fetch(entries[at if at == 0 else at + _WINDOW : at + 2 * _WINDOW], view)
        if isinstance(entry, Block):
            yield Piece(entry.layout, view.buffer(entry), entry.lane, 0, entry.rows)
        else:
            yield m.StreamEnd(entry)


def shuffled(entries: list[Block | int], view: View, seed: int, batch: int) -> Iterator[Piece | m.StreamEnd]:
    """The kept rows in pieces of one batch (or less at a block's end), in an order that the seed determines."""
    draw = random.Random(seed)
    blocks = [entry for entry in entries if isinstance(entry, Block)]
    draw.shuffle(blocks)
    _fetch(blocks[:_WINDOW], view)
    number = 0
    for at in range(0, len(blocks), _WINDOW):
        _fetch(blocks[at + _WINDOW : at + 2 * _WINDOW], view)
        pieces = [(block, start) for block in blocks[at : at + _WINDOW] for start in range(0, block.rows, batch)]
        draw.shuffle(pieces)
        for block, start in pieces:
            rows = min(batch, block.rows - start)
            yield Piece(block.layout, view.buffer(block), number, start, rows)
            if rows < batch:
                yield m.StreamEnd(number)  # its rows go to the carry: no others of this piece will come
            number += 1


def _fetch(entries: Any, view: View) -> None:
    for entry in entries:
        if isinstance(entry, Block):
            view.fetch(entry)
