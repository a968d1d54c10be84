"""Results that came back to a writer, slot by slot."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sized
from typing import Any

from tfos_fast.channel.codec.decode import rows
from tfos_fast.channel.codec.layout import Layout
from tfos_fast.channel.codec.layout import layout as lay_out
from tfos_fast.channel.host.segment import Segment
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.schema.columns import Schema

#: What becomes of a slot of results: ``(layout, slot, rows)`` to anything with a length, one for each row. It copies what it needs.
Decode = Callable[[Layout, Any, int], Sized]


def result_rows(where: Layout, slot: Any, count: int) -> list[Any]:
    """A slot of results as the rows that were given."""
    return rows(where, slot, 0, count)


class ResultReader:
    """The writer's side: results that came back for the stream whose exchange is going on. Others are dropped.

    Parameters
    ----------
    segment : Segment
    """

    def __init__(self, segment: Segment) -> None:
        self.stream: int | None = None
        self.ready: deque[Any] = deque()
        self.decode: Decode = result_rows
        self._segment = segment
        self._schemas: dict[int, Schema] = {}

    def take(self, message: m.Deliver) -> None:
        """Copy a delivered slot's results; the slot may be given back then."""
        if message.schema is not None:
            self._schemas[message.schema_id] = message.schema
        if message.stream == self.stream:
            where = lay_out(self._schemas[message.schema_id], message.capacity, self._segment.slot_bytes)
            self.ready.append(self.decode(where, self._segment.window(message.slot), message.rows))

    def stop(self) -> None:
        """The exchange is over or was given up."""
        self.stream = None
        self.ready.clear()
