"""The slots of one feed on their way: those of writers to the reader, and those with results back. Pure: no I/O.

The lowest layer of a :class:`~tfos_fast.channel.broker.feed.Feed`. Layers are one object, so that a message that comes with every
slot meets no other one on its way; each knows only those below it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tfos_fast.channel.broker.delivered import Deliveries
from tfos_fast.channel.broker.grants import Grants
from tfos_fast.channel.broker.lockstep import NodeSteps
from tfos_fast.channel.broker.schema_agreement import Agreement
from tfos_fast.channel.broker.slot_table import SlotTable, State, TableError
from tfos_fast.channel.broker.streams import Stream, Streams
from tfos_fast.channel.broker.tally import Tally
from tfos_fast.channel.codec.fingerprint import mark
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.messages import INPUT, OUTPUT
from tfos_fast.channel.schema.columns import Schema


@dataclass
class Peer:
    """One attached client."""

    role: str
    pid: int = 0
    stream: Stream | None = None
    waiting: m.OpenPartition | None = None  # asked to open, and no reader has declared its form
    patience: float = math.inf  # seconds that it waits without movement
    opening: bool = False  # has asked to open, and it is not yet decided
    flushed: bool = False  # was asked to publish what it has, and has not published since
    knows: set[int] = field(default_factory=set)  # schema numbers sent with a Deliver


class SlotQueue:
    """Who has which slot, what waits for the reader, and what was counted on the way.

    Parameters
    ----------
    n_slots : int
    clock : callable
        Gives seconds.

    Attributes
    ----------
    total : Tally
        Rows of everything.
    newest : Tally
        Rows of the newest of the feeds that partitions belong to, by ``number_of(key)``.
    """

    def __init__(self, n_slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.table = SlotTable(n_slots)
        self.outbox: list[tuple[bytes, m.Message]] = []
        self.peers: dict[bytes, Peer] = {}
        self.reader: bytes | None = None
        self.failure: m.Failed | None = None
        self.terminated = False
        self.progress = 0
        self.total = Tally()
        self.newest = Tally()
        self.number_of: Callable[[str], int] = lambda key: 0
        self.bytes = 0  # of slots that writers filled
        self.starved = 0.0  # seconds that the reader waited and there was nothing, until rows came
        self.on_demand: Callable[[int, bool], None] = lambda epoch, ends: None
        self.demanded = False  # its reader has nothing to read since it asked for this epoch
        self.deliveries = Deliveries(keep=False, total=self.total)
        self.steps = NodeSteps(lambda message: self._to_reader(message, None))
        self._epoch = 0  # ends of an epoch put behind the rows so far
        self._clock = clock
        self._starving = False
        self._starving_since: float | None = None
        self._streams = Streams()
        self._agreement = Agreement()
        self._keeping = False
        self._kept = 0  # rows that the reader keeps, or will when it comes to them
        self._fed = self.newest  # the tally of the feed of which a partition was opened last
        self._replaying = 0  # of these, how many it has yet to take in a replay
        self._replayed: Callable[[], None] = lambda: None
        self._queue: deque[tuple[m.Message, int | None]] = deque()  # for a reader that is not there yet
        self._slot_rows: dict[int, tuple[Stream, int]] = {}  # published slot -> its stream and rows
        self._grants = Grants(self.table, lambda peer, slots, pool: self._send(peer, m.Granted(slots, pool)))

    @property
    def rows_published(self) -> int:
        """Rows for the reader, over all its lives; see :class:`~tfos_fast.channel.broker.tally.Tally`."""
        return self.total.published

    @property
    def rows_taken(self) -> int:
        """Rows that the reader's process took, over all its lives."""
        return self.total.taken

    # ---- from writers to the reader ------------------------------------------------------------------------------------------

    def _want(self, peer: bytes, message: m.Want) -> None:
        if (message.pool == OUTPUT) != (peer == self.reader):
            raise TableError(f"a slot of the {message.pool} pool is not for this peer")
        self._grants.want(peer, message.pool)
        self._grant()

    def _grant(self) -> None:
        if self.failure is not None or (self.terminated and self.reader is None):
            return  # the reader's arrays may outlive it: its slots stay as they are
        self._grants.serve()

    def _publish(self, peer: bytes, message: m.Publish) -> None:
        state = self.peers[peer]
        stream = self._streams.get(message.stream)
        if stream is None and state.role == "reader" and self._streams.existed(message.stream):
            self.table.publish(peer, message.slot)
            self.table.discard(message.slot)  # results for a writer that is gone
            self._grant()
            return
        known = stream is not None and (stream.fenced or message.schema_id < len(self._agreement))
        if stream is None or not known or message.rows > message.capacity:
            raise TableError(f"no stream {message.stream} or schema {message.schema_id}, or {message.rows} rows are too many")
        if state.role == "writer" and (stream is not state.stream or (stream.closed and not stream.fenced)):
            raise TableError(f"stream {message.stream} is not open")
        self.table.publish(peer, message.slot)
        self.progress += 1
        self.bytes += message.bytes
        state.flushed = False
        if message.want and state.role == "writer":
            self._grants.want(peer, INPUT)
        if state.role == "reader":
            self._publish_results(stream, message)
            return
        if stream.fenced or self.terminated:
            if not stream.fenced:  # it crossed the reader's word that it wants no more: rows that are left
                self.total.published += message.rows
                stream.tally.published += message.rows
            self.table.discard(message.slot)
            self._grant()
            return
        stream.published += message.rows
        stream.proof = stream.proof.extended(message.proof, mark(self._agreement[message.schema_id].columns))
        self.deliveries.published(stream.lane, message.rows)
        self.steps.published(stream.lane, message.rows)
        if self.steps.dropping and not self._keeping:
            self.table.discard(message.slot)
            for tally in (self.total, stream.tally):
                tally.published += message.rows
                tally.taken += message.rows
            self._grant()
            return
        stream.in_flight += 1
        self.total.published += message.rows
        stream.tally.published += message.rows
        self._kept += message.rows if self._keeping else 0
        self._slot_rows[message.slot] = (stream, message.rows)
        self._starving = self.demanded = False
        if self._starving_since is not None:
            self.starved += self._clock() - self._starving_since
            self._starving_since = None
        deliver = m.Deliver(
            message.slot, stream.lane, message.rows, message.capacity, message.schema_id, None, answered=stream.exchange
        )  # fmt: skip
        self._to_reader(deliver, message.slot)
        self._grant()  # the writer holds one slot less

    def _publish_results(self, stream: Stream, message: m.Publish) -> None:
        writer = stream.writer
        if writer is None or writer not in self.peers or not stream.exchange:
            self.table.discard(message.slot)  # whoever asked for these results is gone, or nobody asked
            self._grant()
            return
        self.table.deliver(message.slot, writer)
        self._grant()
        self._send(
            writer,
            m.Deliver(
                message.slot, stream.number, message.rows, message.capacity, message.schema_id,
                self._first_time(writer, message.schema_id),
            ),
        )  # fmt: skip

    def _give_back(self, peer: bytes, message: m.GiveBack) -> None:
        self.table.give_back(peer, message.slot)
        self._grant()

    def _to_reader(self, message: m.Message, slot: int | None) -> None:
        if self.reader is None:
            if not self.terminated:
                self._queue.append((message, slot))
            return
        if slot is not None:
            assert isinstance(message, m.Deliver)
            self.table.deliver(slot, self.reader)
            message = m.Deliver(
                slot, message.stream, message.rows, message.capacity, message.schema_id,
                self._first_time(self.reader, message.schema_id), self.table.granted(), message.answered,
            )  # fmt: skip
        self._send(self.reader, message)

    def _first_time(self, peer: bytes, schema_id: int) -> Schema | None:
        knows = self.peers[peer].knows
        if schema_id in knows:
            return None
        knows.add(schema_id)
        return self._agreement[schema_id]

    def _done(self, peer: bytes, message: m.Done) -> None:
        if message.taken and peer != self.reader:
            raise TableError("rows taken by somebody else than the reader")
        self.progress += 1
        for slot in message.taken:
            if slot not in self._slot_rows:
                continue  # delivered before a terminate, which forgot it
            stream, rows = self._slot_rows.pop(slot)
            stream.in_flight -= 1
            self.total.taken += rows
            stream.tally.taken += rows
            self._check_taken(stream)
        for slot in message.released:
            self.table.release(peer, slot)
        if message.released:
            self._grant()

    def _check_taken(self, stream: Stream) -> None:
        # A step may wait for rows of another node: a task that waited for it here would hold the core that is to bring them.
        # The end of an epoch in step is waited for by the driver.
        taken = stream.in_flight == 0 or self.steps.in_common
        if stream.complete and taken and stream.writer in self.peers:
            self._send(stream.writer, m.StreamTaken(stream.number))

    def _drop_queued(self) -> None:
        """What was published and not delivered goes nowhere."""
        for slot in range(self.table.n_slots):
            if self.table.state[slot] is State.READY:
                self.table.discard(slot)
        self._queue.clear()
        self._slot_rows.clear()

    def _send(self, peer: bytes, message: m.Message) -> None:
        self.outbox.append((peer, message))

    # ---- a reader without rows -----------------------------------------------------------------------------------------------

    def _starve(self, peer: bytes, message: m.Starving) -> None:
        self._starving = True
        if self._starving_since is None:
            self._starving_since = self._clock()
        if message.epoch == self._epoch and not self.demanded:
            self.demanded = True
            self.on_demand(message.epoch, message.ends)
        for name, state in self.peers.items():
            if state.role == "writer" and state.stream is not None and not state.stream.closed:
                self._flush(name, state)

    def _flush(self, peer: bytes, state: Peer) -> None:
        # Once: a writer that is busy elsewhere must not find thousands of these in its socket.
        if not state.flushed:
            state.flushed = True
            self._send(peer, m.Flush())

    # ---- rows that the reader keeps ------------------------------------------------------------------------------------------

    def keep(self, kind: Literal["", "memory", "disk"], limit: int = 0) -> None:
        """The reader keeps (or, with no kind, forgets) the rows that are published from here on, for ``replay``."""
        self._keeping, self._kept = bool(kind), 0
        self._to_reader(m.Keep(kind, limit), None)

    def replay(self, seed: int | None, done: Callable[[], None]) -> None:
        """The reader gets the rows that it keeps once more; ``done()`` when it has taken them all (never when it leaves before)."""
        self.progress += 1
        self.total.published += self._kept
        self._fed.published += self._kept
        self._replaying, self._replayed = self._kept, done
        if not self._kept:
            done()
            return
        self._to_reader(m.Replay(seed), None)
        self.steps.kept(self._kept)

    def _on_replayed(self, peer: bytes, message: m.Replayed) -> None:
        if peer == self.reader and self.terminated:
            return  # the rows that it had yet to take were forgotten
        if peer != self.reader or message.rows > self._replaying:
            raise TableError(f"{message.rows} rows replayed, {self._replaying} are to come")
        self.progress += 1
        self.total.taken += message.rows
        self._fed.taken += message.rows
        self._replaying -= message.rows
        if message.rows and not self._replaying:
            self._replayed()

    def _tally_of(self, key: str) -> Tally:
        """Of the feed that a partition belongs to. Of older ones than the newest nobody asks any more."""
        number = self.number_of(key)
        if number > self.newest.number:
            self.newest = Tally(number)
        self._fed = self.newest if number == self.newest.number else Tally(number)
        return self._fed

    def _begin_anew(self) -> None:
        """For another reader. Only attached writers stay, and the count of what does not come again."""
        self._drop_queued()
        self.reader = None
        self.terminated = self.demanded = self._starving = False
        self._starving_since = None
        self.total.begin_anew()
        self.newest.begin_anew()
        self._keeping, self._kept, self._replaying = False, 0, 0
        self._agreement = Agreement()
        self.steps = self.steps.successor()
        self.deliveries = Deliveries(keep=self.deliveries.keep, total=self.total)
        self._epoch = 0
