"""Row mode: a delivered slot becomes Python objects bit by bit, and for inference it is known whose rows were handed out."""

from __future__ import annotations

from collections import deque
from typing import Any

from tfos_fast.channel.codec.decode import rows as decode_rows
from tfos_fast.channel.codec.layout import Layout

_AT_ONCE = 256  # rows made into Python objects in one go


class RowBuffer:
    """Rows that were made and not yet handed out, and the slot that more of them come from.

    Parameters
    ----------
    origins : bool
        Remember whose rows were handed out (inference).

    Attributes
    ----------
    ready : deque
        Rows that were made and not yet handed out.
    """

    def __init__(self, *, origins: bool = True) -> None:
        self.ready: deque[Any] = deque()
        self._origins = origins
        self._made: deque[tuple[int, int]] = deque()  # whose rows these are: (stream, rows)
        self._slot: tuple[Layout, Any, int, int] | None = None  # layout, lease, stream, last row
        self._at = 0

    def __len__(self) -> int:
        return len(self.ready)

    @property
    def wants_slot(self) -> bool:
        """Whether the next slot may be pushed."""
        return self._slot is None

    @property
    def stream(self) -> int:
        """Whose rows are made next; only unless ``wants_slot``."""
        assert self._slot is not None
        return self._slot[2]

    def push(self, where: Layout, lease: Any, stream: int, rows: int, start: int = 0) -> None:
        """A slot, or some rows of one, to make rows from; only when ``wants_slot``."""
        self._slot, self._at = (where, lease, stream, start + rows), start

    def make(self) -> bool:
        """Make some rows. Values are copied. Whether the slot is used up; its lease is let go then."""
        assert self._slot is not None
        where, lease, stream, end = self._slot
        stop = min(end, self._at + _AT_ONCE)
        self.ready.extend(decode_rows(where, lease, self._at, stop))
        if self._origins:
            self._made.append((stream, stop - self._at))
        self._at = stop
        if stop == end:
            self._slot = None
        return stop == end

    def take(self, n: int) -> tuple[list[Any], list[tuple[int, int]]]:
        """Up to ``n`` rows, and whose they are."""
        if n == 1 and self.ready and not self._origins:  # programs of old ask so, row by row
            return [self.ready.popleft()], []
        next_row = self.ready.popleft
        count = min(n, len(self.ready))
        rows_out = [next_row() for _ in range(count)] if count != 1 else [next_row()]
        origin: list[tuple[int, int]] = []
        left = count if self._origins else 0
        while left:
            stream, rows = self._made.popleft()
            used = min(left, rows)
            if used < rows:
                self._made.appendleft((stream, rows - used))
            origin.append((stream, used))
            left -= used
        return rows_out, origin

    def clear(self) -> None:
        """Drop everything."""
        self.ready.clear()
        self._made.clear()
        self._slot = None
