"""Row mode: a delivered slot becomes Python objects bit by bit, and for inference it is known whose rows were handed out."""

from __future__ import annotations

from collections import deque
from typing import Any

from tfos_fast.channel.decode import rows as decode_rows
from tfos_fast.channel.layout import Layout

_AT_ONCE = 256  # rows made into Python objects in one go


class RowBuffer:
    """Rows that were made and not yet handed out, and the slot that more of them come from."""

    def __init__(self) -> None:
        self._rows: deque[Any] = deque()
        self._made: deque[tuple[int, int]] = deque()  # whose rows these are: (stream, rows)
        self._slot: tuple[Layout, Any, int, int] | None = None  # layout, lease, stream, rows
        self._at = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def wants_slot(self) -> bool:
        """Whether the next slot may be pushed."""
        return self._slot is None

    def push(self, where: Layout, lease: Any, stream: int, rows: int) -> None:
        """A slot to make rows from; only when ``wants_slot``."""
        self._slot, self._at = (where, lease, stream, rows), 0

    def make(self) -> bool:
        """Make some rows. Values are copied. Whether the slot is used up; its lease is let go then."""
        assert self._slot is not None
        where, lease, stream, rows = self._slot
        stop = min(rows, self._at + _AT_ONCE)
        self._rows.extend(decode_rows(where, lease, self._at, stop))
        self._made.append((stream, stop - self._at))
        self._at = stop
        if stop == rows:
            self._slot = None
        return stop == rows

    def take(self, n: int) -> tuple[list[Any], list[tuple[int, int]]]:
        """Up to ``n`` rows, and whose they are."""
        left = count = min(n, len(self._rows))
        origin = []
        while left:
            stream, rows = self._made.popleft()
            used = min(left, rows)
            if used < rows:
                self._made.appendleft((stream, rows - used))
            origin.append((stream, used))
            left -= used
        return [self._rows.popleft() for _ in range(count)], origin

    def clear(self) -> None:
        """Drop everything."""
        self._rows.clear()
        self._made.clear()
        self._slot = None
