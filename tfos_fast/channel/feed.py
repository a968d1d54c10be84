"""The state of one feed, as the broker keeps it: peers, streams, schema agreement, and what goes to whom. Pure: no I/O.

Every change puts messages into ``outbox`` as (peer, message); the broker sends them. A *stream* is one attempt of one writer at one
partition. Peers are ZeroMQ identities.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tfos_fast.channel import messages as m
from tfos_fast.channel.schema import Schema, apply_spec, join
from tfos_fast.channel.table import INPUT, OUTPUT, SlotTable, State, TableError
from tfos_fast.errors import SchemaMismatch, TfosError


@dataclass
class Stream:
    """One attempt at one partition."""

    number: int
    key: str
    attempt: int
    writer: bytes | None
    exchange: bool
    skip: int = 0
    published: int = 0  # rows
    in_flight: int = 0  # slots published and not yet taken
    closed: bool = False
    fenced: bool = False


@dataclass
class Peer:
    """One attached client."""

    role: str
    pid: int = 0
    wants: dict[str, int] = field(default_factory=lambda: {INPUT: 0, OUTPUT: 0})
    stream: Stream | None = None
    waiting: m.OpenPartition | None = None  # asked to open, and no reader has declared its form
    knows: set[int] = field(default_factory=set)  # schema numbers sent with a Deliver


OnOpen = Callable[[str, int, Callable[..., None]], None]


class Feed:
    """One feed: one reader, any number of writers.

    Parameters
    ----------
    n_slots : int
    end_after : int
        End the feed when so many writers have left and none is attached, as a pipe does. 0: only ``end_feed`` ends it.
    form : Form, optional
        Declared by the owner up front; without it writers wait for the reader's.
    on_open : callable, optional
        ``on_open(key, attempt, reply)`` decides how many rows an attempt skips; it calls ``reply(skip)`` or ``reply(error=text)``
        now or later. Without it the watermarks of this feed decide.
    """

    def __init__(
        self, n_slots: int, *, end_after: int = 0, form: m.Form | None = None, on_open: OnOpen | None = None
    ) -> None:
        self.table = SlotTable(n_slots)
        self.outbox: list[tuple[bytes, m.Message]] = []
        self.peers: dict[bytes, Peer] = {}
        self.reader: bytes | None = None
        self.form = form
        self.train = True
        self.failure: m.Failed | None = None
        self.terminated = False
        self.ended = False
        self.progress = 0
        self.rows_published = 0
        self.rows_taken = 0
        self.on_terminated: Callable[[], None] = lambda: None
        self.explain_death: Callable[[int], m.Failed | None] = lambda pid: None
        self.on_partition_done: Callable[[str, int, int], None] = lambda key, attempt, rows: None
        self._end_after = end_after
        self._writers_left = 0
        self._on_open = on_open or self._local_open
        self._streams: dict[int, Stream] = {}
        self._latest: dict[str, Stream] = {}  # key -> its newest attempt
        self._broken: dict[str, int] = {}  # key -> pid of the writer that died in it
        self._queue: deque[tuple[m.Message, int | None]] = deque()  # for a reader that is not there yet
        self._slot_rows: dict[int, tuple[Stream, int]] = {}  # published slot -> its stream and rows
        self._schemas: list[Schema] = []
        self._ids: dict[Schema, int] = {}
        self._current: int | None = None  # the feed's schema in column mode
        self._pinned = False
        self._starving = False
        self._wanting: dict[str, deque[bytes]] = {INPUT: deque(), OUTPUT: deque()}

    # ---- peers ---------------------------------------------------------------------------------------------------------------

    def hello(self, peer: bytes, message: m.Hello) -> None:
        """A client attached."""
        self.peers[peer] = Peer(message.role, message.pid)
        self._send(peer, m.Welcome(self.table.n_slots))
        if self.failure is not None:
            self._send(peer, self.failure)

    def leave(self, peer: bytes, *, died: bool) -> None:
        """A client left in order or died: reclaim its slots and tell who depends on it."""
        gone = self.peers.pop(peer, None)
        if gone is None:
            return
        self.table.drop(peer)
        if gone.role == "writer":
            self._writers_left += 1
        if peer == self.reader:
            self._reader_left(gone, died)
        if gone.stream is not None and not gone.stream.closed:
            if died:
                self._broken[gone.stream.key] = gone.pid
            self._end_stream(gone.stream)
        if gone.stream is not None:
            gone.stream.writer = None
        self._grant()
        self._maybe_end()

    def handle(self, peer: bytes, message: Any) -> None:
        """Apply a request.

        Raises
        ------
        TableError
            The peer broke the protocol; the broker drops it.
        """
        if peer not in self.peers:
            raise TableError(f"{type(message).__name__} before Hello")
        handler = self._HANDLERS.get(type(message))
        if handler is None:
            raise TableError(f"{type(message).__name__} is not for a feed")
        handler(self, peer, message)

    # ---- writers -------------------------------------------------------------------------------------------------------------

    def _open_partition(self, peer: bytes, message: m.OpenPartition) -> None:
        state = self.peers[peer]
        if self.form is None:
            state.waiting = message
            return
        state.waiting = None
        if self.terminated:
            self._send(peer, m.Terminated())

        def reply(skip: int = 0, *, error: str = "", kind: str = "Fenced") -> None:
            if self.peers.get(peer) is not state:
                return  # it left meanwhile
            if error:
                self._send(peer, m.Refused(kind, error))
                return
            assert self.form is not None
            stream = Stream(len(self._streams), message.key, message.attempt, peer, message.exchange, skip, skip)
            self._streams[stream.number] = self._latest[stream.key] = stream
            state.stream = stream
            self._send(peer, m.Opened(stream.number, skip, self.form))
            if self._starving:
                self._send(peer, m.Flush())

        self._on_open(message.key, message.attempt, reply)

    def _local_open(self, key: str, attempt: int, reply: Callable[..., None]) -> None:
        before = self._latest.get(key)
        if before is not None and before.attempt > attempt:
            reply(error=f"attempt {attempt} at partition {key} comes after attempt {before.attempt}")
            return
        reply(self.fence(key, attempt))

    def fence(self, key: str, attempt: int) -> int:
        """Shut out attempts older than this one and return the partition's row watermark (rows published here)."""
        stream = self._latest.get(key)
        if stream is None:
            return 0
        if stream.attempt < attempt and not stream.fenced:
            stream.fenced = True
            if stream.writer is not None and not stream.closed:
                text = f"attempt {stream.attempt} at partition {key} was replaced by attempt {attempt}"
                self._send(stream.writer, m.Refused("Fenced", text))
                self._end_stream(stream)
        return stream.published

    def _propose(self, peer: bytes, message: m.Propose) -> None:
        assert self.form is not None
        schema = message.schema
        try:
            if self.form.spec:
                schema = apply_spec(schema, self.form.spec)
            if not self.form.exact and self._current is not None:
                current = self._schemas[self._current]
                joined = join(current, schema, exact=False)
                if self.form.spec:
                    joined = apply_spec(joined, self.form.spec)
                if self._pinned and joined != current:
                    raise SchemaMismatch(_difference(current, joined))
                schema = joined
        except TfosError as error:
            self._send(peer, m.Refused(type(error).__name__, str(error)))
            return
        number = self._number(schema)
        if not self.form.exact:
            self._current = number
        self._send(peer, m.Agreed(number, schema))

    def _register(self, peer: bytes, message: m.Register) -> None:
        self._send(peer, m.Agreed(self._number(message.schema), message.schema))

    def _number(self, schema: Schema) -> int:
        number = self._ids.setdefault(schema, len(self._schemas))
        if number == len(self._schemas):
            self._schemas.append(schema)
        return number

    def _want(self, peer: bytes, message: m.Want) -> None:
        self._wanting[message.pool].append(peer)
        self._grant()

    def _grant(self) -> None:
        for pool, wanting in self._wanting.items():
            for _ in range(len(wanting)):
                if not wanting or self.table.available(pool) <= 0:
                    break
                peer = wanting.popleft()
                if peer not in self.peers:
                    continue
                # A second slot in hand is for speed; it must not be the one that another writer waits for.
                spare = self.table.held(peer, State.GRANTED) > 0
                if spare and (wanting or self.table.available(pool) <= self.table.quota[pool] // 4):
                    wanting.append(peer)
                    continue
                slot = self.table.grant(peer, pool)
                assert slot is not None
                self._send(peer, m.Granted(slot, pool))

    def _publish(self, peer: bytes, message: m.Publish) -> None:
        state = self.peers[peer]
        stream = self._streams.get(message.stream)
        if stream is None or not 0 <= message.schema_id < len(self._schemas):
            raise TableError(f"no stream {message.stream} or schema {message.schema_id}")
        self.table.publish(peer, message.slot)
        self.progress += 1
        if peer == self.reader:
            self._publish_results(stream, message)
            return
        if stream is not state.stream or stream.fenced or self.terminated:
            self.table.discard(message.slot)
            self._grant()
            return
        stream.published += message.rows
        stream.in_flight += 1
        self.rows_published += message.rows
        self._slot_rows[message.slot] = (stream, message.rows)
        self._starving = False
        self._to_reader(
            m.Deliver(message.slot, stream.number, message.rows, message.capacity, message.schema_id, None),
            message.slot,
        )
        self._grant()  # the writer holds one slot less: its next one may no longer be a spare

    def _publish_results(self, stream: Stream, message: m.Publish) -> None:
        writer = stream.writer
        if writer is None or writer not in self.peers:
            self.table.discard(message.slot)  # whoever asked for these results is gone
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

    def _close_partition(self, peer: bytes, message: m.ClosePartition) -> None:
        stream = self.peers[peer].stream
        if stream is None or stream.number != message.stream:
            raise TableError(f"stream {message.stream} is not open")
        if stream.fenced:
            return
        self._broken.pop(stream.key, None)
        self._end_stream(stream)
        self.on_partition_done(stream.key, stream.attempt, stream.published)
        self._check_taken(stream)
        self.progress += 1

    def _end_stream(self, stream: Stream) -> None:
        stream.closed = True
        self._to_reader(m.StreamEnd(stream.number), None)

    # ---- the reader ----------------------------------------------------------------------------------------------------------

    def _open_reader(self, peer: bytes, message: m.OpenReader) -> None:
        if self.reader is not None and self.reader != peer:
            self._send(
                peer, m.Refused("FormError", f"process {self.peers[self.reader].pid} already reads this channel")
            )
            return
        touched = self.rows_published > 0
        if self.form is not None and (touched or self.reader is not None) and self.form.mode != message.form.mode:
            text = f"the feed is open in {self.form.mode} mode, and {message.form.mode} was asked for; use one of them per feed"
            if self.reader is None:
                text += " (writers came first: Channel.create(form=...) says what they assume)"
            self._send(peer, m.Refused("FormError", text))
            return
        if self.form is None or not touched:
            self.form = message.form
        self.reader = peer
        self.train = message.train
        if not message.train and self.table.quota[OUTPUT] == 0:
            self.table.reserve_output()
        self._send(peer, m.FormSet(self.form))
        for name, state in list(self.peers.items()):
            if state.waiting is not None:
                self._open_partition(name, state.waiting)
        queued, self._queue = self._queue, deque()
        for queued_message, slot in queued:
            self._to_reader(queued_message, slot)
        self._maybe_end()

    def _to_reader(self, message: m.Message, slot: int | None) -> None:
        if self.reader is None:
            self._queue.append((message, slot))
            return
        if slot is not None:
            assert isinstance(message, m.Deliver)
            self.table.deliver(slot, self.reader)
            message = m.Deliver(
                slot, message.stream, message.rows, message.capacity, message.schema_id,
                self._first_time(self.reader, message.schema_id),
            )  # fmt: skip
        self._send(self.reader, message)

    def _first_time(self, peer: bytes, schema_id: int) -> Schema | None:
        knows = self.peers[peer].knows
        if schema_id in knows:
            return None
        knows.add(schema_id)
        return self._schemas[schema_id]

    def _pin(self, peer: bytes, message: m.Pin) -> None:
        if self._current is None:
            raise TableError("nothing to pin")
        self._pinned = True
        self._send(peer, m.Pinned(self._current, self._schemas[self._current]))

    def _done(self, peer: bytes, message: m.Done) -> None:
        self.progress += 1
        for slot in message.taken:
            if slot not in self._slot_rows:
                continue  # delivered before a terminate, which forgot it
            stream, rows = self._slot_rows.pop(slot)
            stream.in_flight -= 1
            self.rows_taken += rows
            self._check_taken(stream)
        for slot in message.released:
            self.table.release(peer, slot)
        if message.released:
            self._grant()

    def _check_taken(self, stream: Stream) -> None:
        if stream.closed and stream.in_flight == 0 and stream.writer in self.peers:
            self._send(stream.writer, m.StreamTaken(stream.number))

    def _starve(self, peer: bytes, message: m.Starving) -> None:
        self._starving = True
        for name, state in self.peers.items():
            if state.role == "writer" and state.stream is not None and not state.stream.closed:
                self._send(name, m.Flush())

    def _terminate(self, peer: bytes, message: m.Terminate) -> None:
        self.terminate()

    def terminate(self) -> None:
        """The reader wants no more rows: drop what is queued, and let writers end quickly."""
        if self.terminated:
            return
        self.terminated = True
        for slot in range(self.table.n_slots):
            if self.table.state[slot] is State.READY:
                self.table.discard(slot)
        self._queue.clear()
        self._slot_rows.clear()
        for name, state in self.peers.items():
            if state.role == "writer":
                self._send(name, m.Terminated())
        if self.form is None:
            # Nobody will declare one any more: answer the writers that wait for it, so that they can end.
            self.form = m.Form("rows")
            for name, state in list(self.peers.items()):
                if state.waiting is not None:
                    self._open_partition(name, state.waiting)
        self._grant()
        self.on_terminated()

    def _reader_left(self, gone: Peer, died: bool) -> None:
        self.reader = None
        self._slot_rows.clear()
        if died:
            text = f"the reader (process {gone.pid}) died with {self.rows_published - self.rows_taken} published rows not taken"
            self.fail(self.explain_death(gone.pid) or m.Failed("ReaderDied", text))
        elif not self.ended:
            self.terminate()

    # ---- the owner -----------------------------------------------------------------------------------------------------------

    def fail(self, failure: m.Failed) -> None:
        """Everybody attached, and whoever attaches later, gets this error. The first failure is kept."""
        if self.failure is not None:
            return
        self.failure = failure
        for peer in self.peers:
            self._send(peer, failure)

    def end_epoch(self) -> None:
        """Put an end-of-epoch mark behind everything published."""
        self._to_reader(m.EpochEnd(), None)

    def end_feed(self) -> None:
        """Put the end of the feed behind everything published."""
        if not self.ended:
            self.ended = True
            self._to_reader(m.FeedEnd(), None)

    def _maybe_end(self) -> None:
        if (
            self.ended
            or not 0 < self._end_after <= self._writers_left
            or any(p.role == "writer" for p in self.peers.values())
        ):
            return
        if self._broken:
            key, pid = next(iter(self._broken.items()))
            text = f"process {pid} died in the middle of partition {key}, and no other writer finished it"
            self.fail(m.Failed("WriterDied", text))
        self.end_feed()

    def status(self) -> m.Status:
        """The counters."""
        writers = [p for p in self.peers.values() if p.role == "writer"]
        return m.Status(
            progress=self.progress,
            rows_published=self.rows_published,
            rows_taken=self.rows_taken,
            slots=self.table.counts(),
            writers=len(writers),
            waiting=len(self._wanting[INPUT]),
            reader=self.reader is not None,
            train=self.train,
            terminated=self.terminated,
            ended=self.ended,
        )

    def _send(self, peer: bytes, message: m.Message) -> None:
        self.outbox.append((peer, message))

    _HANDLERS: dict[type, Callable[[Any, bytes, Any], None]] = {  # noqa: RUF012
        m.OpenPartition: _open_partition,
        m.Propose: _propose,
        m.Register: _register,
        m.Want: _want,
        m.Publish: _publish,
        m.GiveBack: _give_back,
        m.ClosePartition: _close_partition,
        m.OpenReader: _open_reader,
        m.Pin: _pin,
        m.Done: _done,
        m.Starving: _starve,
        m.Terminate: _terminate,
    }


def _difference(current: Schema, joined: Schema) -> str:
    for before, after in zip(current.columns, joined.columns, strict=False):
        if before != after:
            return f"column {before.name!r}: expected {_form(before)}, found values that need {_form(after)}"
    return f"expected columns {[c.name for c in current.columns]}, found {[c.name for c in joined.columns]}"


def _form(column: Any) -> str:
    return f"{column.dtype}{list(column.shape)}" if column.kind == "fixed" else column.kind
