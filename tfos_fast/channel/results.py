"""Results on their way back: packed into slots of the output pool and published to the writer of their stream."""

from __future__ import annotations

from collections import deque
from typing import Any

from tfos_fast._pack import END, FULL, MISFIT, RowPacker
from tfos_fast.channel import messages as m
from tfos_fast.channel.connection import Connection
from tfos_fast.channel.decode import rows
from tfos_fast.channel.infer import infer
from tfos_fast.channel.lattice import join
from tfos_fast.channel.layout import layout, plan
from tfos_fast.channel.schema import Schema
from tfos_fast.channel.segment import Segment
from tfos_fast.channel.table import OUTPUT

_FLUSH_ROWS = 4096


class ResultReader:
    """The writer's side: results that came back for the stream whose exchange is going on. Others are dropped.

    Parameters
    ----------
    segment : Segment
    """

    def __init__(self, segment: Segment) -> None:
        self.stream: int | None = None
        self.ready: deque[list[Any]] = deque()
        self._segment = segment
        self._schemas: dict[int, Schema] = {}

    def take(self, message: m.Deliver) -> None:
        """Copy a delivered slot's results; the slot may be given back then."""
        if message.schema is not None:
            self._schemas[message.schema_id] = message.schema
        if message.stream == self.stream:
            where = layout(self._schemas[message.schema_id], message.capacity, self._segment.slot_bytes)
            self.ready.append(rows(where, self._segment.window(message.slot), 0, message.rows))

    def stop(self) -> None:
        """The exchange is over or was given up."""
        self.stream = None
        self.ready.clear()


class ResultWriter:
    """Collects results per stream and publishes them when many have come or the reader is about to wait.

    Parameters
    ----------
    connection : Connection
        The reader's.
    """

    def __init__(self, connection: Connection) -> None:
        self._conn = connection
        self._buffered: dict[int, list[Any]] = {}
        self._count = 0
        self._schema: Schema | None = None
        self._schema_id = -1
        self._granted: deque[int] = deque()

    def granted(self, slots: list[int]) -> None:
        """Slots of the output pool arrived."""
        self._granted.extend(slots)

    def add(self, stream: int, results: list[Any]) -> None:
        """Take results of a stream, in order."""
        self._buffered.setdefault(stream, []).extend(results)
        self._count += len(results)
        if self._count >= _FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Publish everything. Waits for slots of the output pool: feeders drain it even while they wait themselves."""
        buffered, self._buffered, self._count = self._buffered, {}, 0
        for stream, results in buffered.items():
            source = iter(results)
            packer: RowPacker | None = None
            pending: list[Any] = [next(source)]
            stopped = MISFIT
            while stopped != END:
                if stopped == MISFIT:
                    self._agree(pending[0])
                    assert self._schema is not None
                    packer = RowPacker(self._schema, exact=True)
                    packer.set_pending(pending[0])
                assert packer is not None
                assert self._schema is not None
                slot = self._slot()
                where = plan(self._schema, self._conn.segment.slot_bytes, batch=1, heap_per_row=64.0)
                packer.bind(self._conn.segment.window(slot), where, 0)
                try:
                    while (stopped := packer.pack_from(source, 1.0)) not in (END, FULL, MISFIT):
                        pass
                    count = packer.rows
                    if stopped == MISFIT:
                        pending = [packer.pending]
                except BaseException:
                    self._granted.append(slot)  # a result larger than a slot, for example
                    raise
                finally:
                    packer.unbind()
                filled = packer.layout
                if count == 0 or filled is None:
                    self._granted.append(slot)
                    continue
                self._conn.send(m.Publish(slot, stream, count, filled.capacity, self._schema_id))
            self._give_back()

    def _give_back(self) -> None:
        while self._granted:
            self._conn.send(m.GiveBack(self._granted.popleft()))

    def _agree(self, row: Any) -> None:
        wanted = infer(row, exact=True)
        if self._schema is not None:
            wanted = join(self._schema, wanted, exact=True)
        if wanted != self._schema:
            self._conn.send(m.Register(wanted))
            agreed = self._conn.ask(m.Agreed, "the schema of results")
            self._schema, self._schema_id = agreed.schema, agreed.schema_id

    def _slot(self) -> int:
        if not self._granted:
            self._conn.send(m.Want(OUTPUT))
            self._conn.wait(lambda: True if self._granted else None, "a free slot for results (feeders must take theirs)")
        return self._granted.popleft()
