"""The state of one feed, as the broker keeps it: who is attached, who has which slot, and what goes to whom. Pure: no I/O.

Every change puts messages into ``outbox`` as (peer, message); the broker sends them. A *stream* is one attempt of one writer at one
partition. Peers are ZeroMQ identities.

A reader that leaves in order ends the feed: its arrays may outlive it, so no slot that it had is granted again. One that died can
have a successor (``restart``): the feed then begins anew, and what was published and is not committed has to come once more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tfos_fast.channel import messages as m
from tfos_fast.channel.agreement import Agreement, check_form, is_sound
from tfos_fast.channel.deliveries import Deliveries
from tfos_fast.channel.grants import Grants
from tfos_fast.channel.nodesteps import NodeSteps
from tfos_fast.channel.proof import Proof, mark
from tfos_fast.channel.schema import Schema
from tfos_fast.channel.spans import NOWHERE, OPEN, Reached, Span
from tfos_fast.channel.streams import Stream, Streams
from tfos_fast.channel.table import INPUT, OUTPUT, SlotTable, State, TableError
from tfos_fast.errors import TfosError


@dataclass
class Peer:
    """One attached client."""

    role: str
    pid: int = 0
    stream: Stream | None = None
    waiting: m.OpenPartition | None = None  # asked to open, and no reader has declared its form
    opening: bool = False  # has asked to open, and it is not yet decided
    flushed: bool = False  # was asked to publish what it has, and has not published since
    knows: set[int] = field(default_factory=set)  # schema numbers sent with a Deliver


OnOpen = Callable[[str, int, Callable[..., None]], None]


@dataclass(frozen=True)
class Loss:
    """What of a feed was not done with when its reader died.

    Attributes
    ----------
    epoch : int
        Number of the epoch in which the last commit was.
    frontier : dict
        Partition -> the attempt that was opened last, and the row that would have come next, of those of the epoch under way.
    rows : dict
        Partition -> rows that were published, and that no commit covers.
    """

    epoch: int
    frontier: dict[str, Reached]
    rows: dict[str, list[Span]]


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
        ``on_open(key, attempt, reply)`` decides how many rows an attempt skips: ``reply(skip, proof)`` or ``reply(error=text)``,
        now or later, and with ``stop=`` up to which row. Without it the watermarks of this feed decide.
    clock : callable
        Gives seconds.
    """

    def __init__(
        self,
        n_slots: int,
        *,
        end_after: int = 0,
        form: m.Form | None = None,
        on_open: OnOpen | None = None,
        clock: Callable[[], float] = time.monotonic,
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
        self.bytes = 0  # of slots that writers filled
        self.starved = 0.0  # seconds that the reader waited and there was nothing, until rows came
        self.blocked = 0.0  # seconds that writers waited for a slot, as they told with the end of each partition
        self._clock = clock
        self._starving_since: float | None = None
        self.on_terminated: Callable[[bool], None] = lambda asked: None
        self.explain_death: Callable[[int], m.Failed | None] = lambda pid: None
        self.on_partition_done: Callable[[str, int, int, Proof], None] = lambda key, attempt, rows, proof: None
        self.on_demand: Callable[[int, bool], None] = lambda epoch, ends: None
        self.yielding = False
        self.closed = False
        self.recovers = False  # another reader comes when this one has died
        self.deliveries = Deliveries(keep=False)
        self.base = 0  # number of the epoch in which the reader began
        self.demanded = False  # its reader has nothing to read since it asked for this epoch
        self._epoch = 0  # ends of an epoch put behind the rows so far
        self._end_after = end_after
        self._writers_left = 0
        self._on_open = on_open or self._local_open
        self._streams = Streams()
        self._agreement = Agreement()
        self.steps = NodeSteps(lambda message: self._to_reader(message, None))
        self._told = False  # some writer packs by the form
        self._keeping = False
        self._kept = 0  # rows that the reader keeps, or will when it comes to them
        self._replaying = 0  # of these, how many it has yet to take in a replay
        self._replayed: Callable[[], None] = lambda: None
        self._queue: deque[tuple[m.Message, int | None]] = deque()  # for a reader that is not there yet
        self._slot_rows: dict[int, tuple[Stream, int]] = {}  # published slot -> its stream and rows
        self._starving = False
        self._grants = Grants(self.table, lambda peer, slots, pool: self._send(peer, m.Granted(slots, pool)))

    # ---- peers ---------------------------------------------------------------------------------------------------------------

    def hello(self, peer: bytes, message: m.Hello) -> None:
        """A client attached.

        Raises
        ------
        TableError
            It did already.
        """
        if peer in self.peers:
            raise TableError("a second Hello")
        self.peers[peer] = Peer(message.role, message.pid)
        self._send(peer, self.failure or m.Welcome(self.table.n_slots))

    def leave(self, peer: bytes, *, died: bool) -> None:
        """A client left in order or died: reclaim its slots and tell who depends on it."""
        gone = self.peers.pop(peer, None)
        if gone is None:
            return
        self.table.drop(peer)
        self._grants.forget(peer)
        if gone.role == "writer":
            self._writers_left += 1
        if peer == self.reader:
            self._reader_left(gone, died)
        if gone.stream is not None:
            if not gone.stream.closed:
                self._streams.left(gone.stream, gone.pid)
                self._end_lane(gone.stream)
            gone.stream.writer = None
            if gone.stream.exchange:
                self._streams.forget(gone.stream)  # another attempt is another stream, with results of its own
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
        role = self.peers[peer].role
        if role == "dead":
            return
        roles, handler = self._HANDLERS.get(type(message), ("", None))
        if handler is None or role not in roles:
            raise TableError(f"{type(message).__name__} is not for a {role} to say")
        handler(self, peer, message)

    # ---- writers -------------------------------------------------------------------------------------------------------------

    def _open_partition(self, peer: bytes, message: m.OpenPartition) -> None:
        state = self.peers[peer]
        if state.stream is not None and not state.stream.closed:
            raise TableError(f"partition {state.stream.key} is still open")
        if self.closed and message.exchange:
            self._send(peer, m.Refused("ChannelClosed", "this node takes no rows: its main holds (ctx.hold())"))
            return
        if self.yielding and not message.exchange:
            self._send(peer, m.Refused("Yielded", f"partition {message.key} is fed when another feed has got its rows"))
            return
        if self.form is None:
            state.waiting = message
            return
        state.waiting = None
        if message.exchange and self.reader is not None and self.train:
            text = "results are wanted of a reader that reads for training: open it with train_mode=False"
            self._send(peer, m.Refused("FormError", f"{text}, in a main by ctx.get_data_feed(train_mode=False)"))
            return
        if self.terminated:
            self._send(peer, m.Terminated())

        def reply(
            skip: int = 0,
            proof: Proof = Proof(),  # noqa: B008
            stop: int = OPEN,
            *,
            error: str = "",
            kind: str = "Fenced",
        ) -> None:
            if self.peers.get(peer) is not state:
                return  # it left meanwhile
            state.opening = False
            if error:
                self._send(peer, m.Refused(kind, error))
                return
            assert self.form is not None
            self._told = True
            state.stream = self._streams.open(message.key, message.attempt, peer, exchange=message.exchange, skip=skip, proof=proof)
            if not message.exchange:
                self.deliveries.opened(state.stream.lane, message.key, message.attempt, skip)
            self._send(peer, m.Opened(state.stream.number, skip, self.form, proof, stop))
            state.flushed = False
            if self._starving:
                self._flush(peer, state)

        state.opening = True
        self._on_open(message.key, message.attempt, reply)

    def _local_open(self, key: str, attempt: int, reply: Callable[..., None]) -> None:
        before = self._streams.latest(key)
        if before is not None and before.attempt > attempt:
            reply(error=f"attempt {attempt} at partition {key} comes after attempt {before.attempt}")
            return
        if before is not None:
            self._shut(before, attempt)  # of two with the same number the later one
        if before is not None:
            reply(before.published, before.proof)
        else:
            reply(0)

    def fence(self, key: str, attempt: int) -> tuple[Reached, Proof]:
        """Shut out attempts older than this one, and say how far the last one has come that was opened here; and its proof."""
        stream = self._streams.latest(key)
        if stream is None:
            return NOWHERE, Proof()
        if stream.attempt < attempt:
            self._shut(stream, attempt)
        return (stream.attempt, stream.published), stream.proof

    def _shut(self, stream: Stream, attempt: int) -> None:
        if stream.fenced:
            return
        stream.fenced = True
        if stream.writer is not None and not stream.closed:
            stream.closed = True
            text = f"attempt {stream.attempt} at partition {stream.key} was replaced by attempt {attempt}"
            self._send(stream.writer, m.Shut(stream.number, text))
            self._end_lane(stream)

    def _propose(self, peer: bytes, message: m.Propose) -> None:
        stream = self.peers[peer].stream
        if stream is not None and stream.fenced:
            return  # it has been told
        if self.form is None or not is_sound(message.schema):
            raise TableError("a proposal without a form, or of no sound schema")
        try:
            number, schema = self._agreement.propose(message.schema, self.form)
        except TfosError as error:
            self._send(peer, m.Refused(type(error).__name__, str(error)))
            return
        self._send(peer, m.Agreed(number, schema))

    def _register(self, peer: bytes, message: m.Register) -> None:
        if not is_sound(message.schema):
            raise TableError("results of no sound schema")
        self._send(peer, m.Agreed(self._agreement.number(message.schema), message.schema))

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
            self.table.discard(message.slot)
            self._grant()
            return
        stream.published += message.rows
        stream.proof = stream.proof.extended(message.proof, mark(self._agreement[message.schema_id].columns))
        self.deliveries.published(stream.lane, message.rows)
        self.steps.published(stream.lane, message.rows)
        if self.steps.dropping and not self._keeping:
            self.table.discard(message.slot)
            self.rows_published += message.rows
            self.rows_taken += message.rows
            self._grant()
            return
        stream.in_flight += 1
        self.rows_published += message.rows
        self._kept += message.rows if self._keeping else 0
        self._slot_rows[message.slot] = (stream, message.rows)
        self._starving = self.demanded = False
        if self._starving_since is not None:
            self.starved += self._clock() - self._starving_since
            self._starving_since = None
        self._to_reader(m.Deliver(message.slot, stream.lane, message.rows, message.capacity, message.schema_id, None), message.slot)
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

    def _close_partition(self, peer: bytes, message: m.ClosePartition) -> None:
        stream = self.peers[peer].stream
        if stream is None or stream.number != message.stream or (stream.closed and not stream.fenced):
            raise TableError(f"stream {message.stream} is not open")
        self.blocked += message.blocked
        # Between partitions a writer holds nothing: it may do something else for long.
        self.table.drop(peer, State.GRANTED)
        self._grants.forget(peer)
        if not stream.fenced:
            self._streams.finish(stream)
            self.steps.ended(stream.lane)
            self._to_reader(m.StreamEnd(stream.lane, self._streams.exchanges() if stream.exchange else 0), None)
            self.on_partition_done(stream.key, stream.attempt, stream.published, stream.proof)
            self._check_taken(stream)
            self.progress += 1
        self._grant()

    def _end_lane(self, stream: Stream) -> None:
        """A stream ends unfinished. The next attempt may go on in its lane; for results each attempt begins anew."""
        if stream.exchange:
            self._to_reader(m.StreamEnd(stream.lane, self._streams.exchanges()), None)

    # ---- the reader ----------------------------------------------------------------------------------------------------------

    def _open_reader(self, peer: bytes, message: m.OpenReader) -> None:
        if self.reader is not None and self.reader != peer:
            self._send(peer, m.Refused("FormError", f"process {self.peers[self.reader].pid} already reads this channel"))
            return
        try:
            check_form(message.form)
        except TfosError as error:
            self._send(peer, m.Refused(type(error).__name__, str(error)))
            return
        form = self.form
        if form is None or not self._told:
            form = message.form
        elif form.mode == message.form.mode:
            # Writers have begun by this form: their spec stays, and the reader casts for itself.
            form = m.Form(form.mode, message.form.batch, form.spec, form.nulls, form.tensors)
        else:
            text = f"the feed is open in {form.mode} mode, and {message.form.mode} was asked for; use one of them per feed"
            if self.reader is None:
                text += " (writers came first: Channel.create(form=...) says what they assume)"
            self._send(peer, m.Refused("FormError", text))
            return
        self.form = form
        self.reader = peer
        self.train = message.train
        self.steps.opened()
        if not message.train and self.table.quota[OUTPUT] == 0:
            self.table.reserve_output()
        self._send(peer, m.FormSet(self.form, self.table.quota[INPUT], self.deliveries.keep))
        for name, state in list(self.peers.items()):
            if state.waiting is not None:
                self._open_partition(name, state.waiting)
        queued, self._queue = self._queue, deque()
        for queued_message, slot in queued:
            self._to_reader(queued_message, slot)
        if self.terminated:
            self._to_reader(m.FeedEnd(), None)
        self._maybe_end()

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
                self._first_time(self.reader, message.schema_id), self.table.granted(),
            )  # fmt: skip
        self._send(self.reader, message)

    def _first_time(self, peer: bytes, schema_id: int) -> Schema | None:
        knows = self.peers[peer].knows
        if schema_id in knows:
            return None
        knows.add(schema_id)
        return self._agreement[schema_id]

    def _pin(self, peer: bytes, message: m.Pin) -> None:
        pinned = self._agreement.pin()
        if pinned is None:
            raise TableError("nothing to pin")
        self._send(peer, m.Pinned(*pinned))

    def _done(self, peer: bytes, message: m.Done) -> None:
        if message.taken and peer != self.reader:
            raise TableError("rows taken by somebody else than the reader")
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

    def _on_replayed(self, peer: bytes, message: m.Replayed) -> None:
        if peer == self.reader and self.terminated:
            return  # the rows that it had yet to take were forgotten
        if peer != self.reader or message.rows > self._replaying:
            raise TableError(f"{message.rows} rows replayed, {self._replaying} are to come")
        self.progress += 1
        self.rows_taken += message.rows
        self._replaying -= message.rows
        if message.rows and not self._replaying:
            self._replayed()

    def _check_taken(self, stream: Stream) -> None:
        # A step may wait for rows of another node: a task that waited for it here would hold the core that is to bring them.
        # The end of an epoch in step is waited for by the driver.
        taken = stream.in_flight == 0 or self.steps.in_common
        if stream.complete and taken and stream.writer in self.peers:
            self._send(stream.writer, m.StreamTaken(stream.number))

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

    def _commit(self, peer: bytes, message: m.Commit) -> None:
        if self._is_of_reader(peer):
            self.deliveries.commit(message.epoch, message.ends, dict(message.handed))
            self._send(peer, m.Committed())

    def _ask_position(self, peer: bytes, message: m.AskPosition) -> None:
        if self._is_of_reader(peer):
            rows = self.deliveries.position(message.epoch, message.ends, dict(message.handed))
            base = self.base
            self._send(peer, m.Position(base + message.epoch, {base + epoch: spans for epoch, spans in rows.items()}))

    def _is_of_reader(self, peer: bytes) -> bool:
        """Whether a client belongs to the process that reads now, and not to one that is dead by now."""
        return self.reader is not None and self.peers[peer].pid == self.peers[self.reader].pid

    def _set_pace(self, peer: bytes, message: m.SetPace) -> None:
        self.steps.declare(message.pace)
        for stream in self._streams:
            self._check_taken(stream)

    def _steps_end(self, peer: bytes, message: m.StepsEnd) -> None:
        self.steps.left(message.epoch)

    def _terminate(self, peer: bytes, message: m.Terminate) -> None:
        self.terminate(asked=True)

    def terminate(self, *, asked: bool = False) -> None:
        """The reader wants no more rows: drop what is queued, and let writers end quickly.

        ``asked``: it has said so, and not just left.
        """
        if not self.terminated:
            self._drop_all()
            self.on_terminated(asked)

    def _drop_all(self) -> None:
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

    def _reader_left(self, gone: Peer, died: bool) -> None:
        self.reader = None
        self._slot_rows.clear()
        if died and self.recovers:
            return  # who started it says whether there will be another one
        if died:
            text = f"the reader (process {gone.pid}) died with {self.rows_published - self.rows_taken} published rows not taken"
            self.fail(self.explain_death(gone.pid) or m.Failed("ReaderDied", text))
        elif not self.ended:
            self.terminate()
        elif not self.terminated:
            self._drop_all()  # nothing to tell: the feed was over before the reader left

    # ---- the owner -----------------------------------------------------------------------------------------------------------

    def fail(self, failure: m.Failed) -> None:
        """Everybody attached, and whoever attaches later, gets this error. The first failure is kept."""
        if self.failure is not None:
            return
        self.failure = failure
        for peer in self.peers:
            self._send(peer, failure)

    def restart(self) -> Loss:
        """The reader's process is dead, and another one will read: begin anew. Only the counters and attached writers stay.

        Writers leave their partitions as if another feed needed their place. ``base`` has to say in which epoch the reader begins.
        """
        loss = Loss(self.base + self.deliveries.epoch, self.deliveries.frontier(), self.deliveries.lost())
        text = f"the reader of {{}} is gone, and another one will come, {self.rows_published - self.rows_taken} rows were not taken"
        for stream in self._streams.restart():
            if stream.writer is not None and stream.writer in self.peers:
                kind = "ReaderDied" if stream.exchange else "Yielded"
                self._send(stream.writer, m.Shut(stream.number, text.format(stream.key), kind))
        for name, state in list(self.peers.items()):
            if state.role == "reader":
                state.role = "dead"  # what it has said last is not for its successor
                self.table.drop(name)
                self._grants.forget(name)
            elif state.opening:
                self.peers[name] = Peer(state.role, state.pid)  # the answer comes too late
                self._send(name, m.Refused("Yielded", text.format("the node")))
        for slot in range(self.table.n_slots):
            if self.table.state[slot] is State.READY:
                self.table.discard(slot)
        if self.closed:
            self.closed = self.yielding = False
        self._queue.clear()
        self._slot_rows.clear()
        self.reader, self.form, self.train = None, None, True
        self.terminated = self.ended = self.demanded = self._starving = self._told = False
        self._starving_since = None
        self.rows_published = self.rows_taken
        self._keeping, self._kept, self._replaying = False, 0, 0
        self._agreement = Agreement()
        self.steps = self.steps.successor()
        self.deliveries = Deliveries(keep=self.deliveries.keep)
        self._epoch = 0
        self.progress += 1
        self._grant()
        return loss

    def end_epoch(self) -> None:
        """Put an end-of-epoch mark behind everything published. Complete partitions will not be tried again."""
        self._streams.forget_complete()
        self.deliveries.end_epoch()
        self.steps.end_epoch()
        self._epoch += 1
        self.demanded = False
        self._to_reader(m.EpochEnd(), None)

    def keep(self, kind: Literal["", "memory", "disk"], limit: int = 0) -> None:
        """The reader keeps (or, with no kind, forgets) the rows that are published from here on, for ``replay``."""
        self._keeping, self._kept = bool(kind), 0
        self._to_reader(m.Keep(kind, limit), None)

    def replay(self, seed: int | None, done: Callable[[], None]) -> None:
        """The reader gets the rows that it keeps once more; ``done()`` when it has taken them all (never when it leaves before)."""
        self.progress += 1
        self.rows_published += self._kept
        self._replaying, self._replayed = self._kept, done
        if not self._kept:
            done()
            return
        self._to_reader(m.Replay(seed), None)
        self.steps.kept(self._kept)

    def end_feed(self) -> None:
        """Put the end of the feed behind everything published."""
        if not self.ended:
            self.ended = True
            self.steps.end()
            self._to_reader(m.FeedEnd(), None)

    def close(self) -> None:
        """There will be no reader: partitions go elsewhere. After one has come, it ends as if that had asked for it."""
        if self.reader is not None or self.form is not None:
            self.terminate(asked=True)
            return
        self.make_yield(True)
        self.closed = True
        for name, state in list(self.peers.items()):
            if state.waiting is not None:
                waiting, state.waiting = state.waiting, None
                self._open_partition(name, waiting)

    def make_yield(self, on: bool) -> None:
        """Let writers that wait end their partitions early, until this is taken back."""
        if on == self.yielding or self.closed:
            return
        self.yielding = on
        for name, state in list(self.peers.items()):
            if state.role != "writer":
                continue
            self._send(name, m.Yield(on))
            if on and state.waiting is not None and not state.waiting.exchange:
                waiting, state.waiting = state.waiting, None
                self._open_partition(name, waiting)

    def _maybe_end(self) -> None:
        if self.ended or not 0 < self._end_after <= self._writers_left or any(p.role == "writer" for p in self.peers.values()):
            return
        broken = self._streams.broken()
        if broken is not None and not self.terminated:
            key, pid = broken
            text = f"process {pid} died in the middle of partition {key}, or left it without end_partition(); nobody finished it"
            self.ended = True
            self._to_reader(m.FeedEnd("WriterDied", text), None)  # behind the rows that did come
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
            waiting=len(self._grants.waiting()),
            reader=self.reader is not None,
            train=self.train,
            terminated=self.terminated,
            ended=self.ended,
        )

    def _send(self, peer: bytes, message: m.Message) -> None:
        self.outbox.append((peer, message))

    # Who may say it, and what it does.
    _HANDLERS: dict[type, tuple[str, Callable[[Any, bytes, Any], None]]] = {  # noqa: RUF012
        m.OpenPartition: ("writer", _open_partition),
        m.Propose: ("writer", _propose),
        m.Register: ("reader", _register),
        m.Want: ("writer reader", _want),
        m.Publish: ("writer reader", _publish),
        m.GiveBack: ("writer reader", _give_back),
        m.ClosePartition: ("writer", _close_partition),
        m.OpenReader: ("reader", _open_reader),
        m.Pin: ("reader", _pin),
        m.Done: ("writer reader", _done),
        m.Replayed: ("reader", _on_replayed),
        m.Starving: ("reader", _starve),
        m.SetPace: ("reader", _set_pace),
        m.StepsEnd: ("reader", _steps_end),
        m.Terminate: ("reader", _terminate),
        m.Commit: ("control", _commit),
        m.AskPosition: ("control", _ask_position),
    }
