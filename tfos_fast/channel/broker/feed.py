"""The state of one feed, as the broker keeps it: who is attached, how its reader comes and goes, and its end. Pure: no I/O.

Every change puts messages into ``outbox`` as (peer, message); the broker sends them. Peers are ZeroMQ identities. What comes with
every slot is in ``feed_slots.py``, and what comes with every partition in ``feed_partitions.py``.

A reader that leaves in order ends the feed: its arrays may outlive it, so no slot that it had is granted again. One that died can
have a successor (``restart``): the feed then begins anew, and what was published and is not committed has to come once more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from tfos_fast.channel.broker.feed_partitions import OnOpen, Partitions
from tfos_fast.channel.broker.feed_slots import Peer, SlotQueue
from tfos_fast.channel.broker.schema_agreement import check_form
from tfos_fast.channel.broker.slot_table import TableError
from tfos_fast.channel.broker.tally import Tally
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.failures import to_refused
from tfos_fast.channel.protocol.messages import INPUT, OUTPUT
from tfos_fast.channel.protocol.row_spans import Reached, Span
from tfos_fast.errors import TfosError


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


class Feed(Partitions):
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
        super().__init__(n_slots, form=form, on_open=on_open, clock=clock)
        self.ended = False
        self.on_terminated: Callable[[bool], None] = lambda asked: None
        self.explain_death: Callable[[int], m.Failed | None] = lambda pid: None
        self.ended_well: Callable[[int], bool] = lambda pid: False
        self.recovers = False  # another reader comes when this one has died
        self.base = 0  # number of the epoch in which the reader began
        self._end_after = end_after
        self._writers_left = 0
        self._unused: list[tuple[int, int, Tally]] = []  # epoch, rows of it in no step, of which feed; those not committed

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
        self._send(peer, self.failure or m.Welcome(self.table.n_slots, self.status()))

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
                if gone.stream.complete and not (died or gone.stream.in_flight):
                    self.total.settled += gone.stream.published  # it has the results
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

    # ---- the reader ----------------------------------------------------------------------------------------------------------

    def _open_reader(self, peer: bytes, message: m.OpenReader) -> None:
        if self.reader is not None and self.reader != peer:
            self._send(peer, m.Refused("FormError", f"process {self.peers[self.reader].pid} already reads this channel"))
            return
        try:
            check_form(message.form)
        except TfosError as error:
            self._send(peer, to_refused(error))
            return
        form = self.form
        if form is None or not self._told:
            form = message.form
        elif form.mode == message.form.mode:
            # Writers have begun by this form: their spec stays, and the reader casts for itself. Nulls are ruled here.
            form = msgspec.structs.replace(form, batch=message.form.batch, nulls=message.form.nulls or form.nulls)
            try:
                self._agreement.rule(form)
            except TfosError as error:
                self._send(peer, to_refused(error))
                return
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
        self._open_waiting()
        queued, self._queue = self._queue, deque()
        for queued_message, slot in queued:
            self._to_reader(queued_message, slot)
        if self.terminated:
            self._to_reader(m.FeedEnd(), None)
        self._maybe_end()

    def _pin(self, peer: bytes, message: m.Pin) -> None:
        try:
            pinned = self._agreement.pin()
        except TfosError as error:
            self._send(peer, to_refused(error))
            return
        if pinned is None:
            raise TableError("nothing to pin")
        self._send(peer, m.Pinned(*pinned))

    def _set_pace(self, peer: bytes, message: m.SetPace) -> None:
        self.steps.declare(message.pace)
        for stream in self._streams:
            self._check_taken(stream)

    def _steps_end(self, peer: bytes, message: m.StepsEnd) -> None:
        self.steps.left(message.epoch)

    def _commit(self, peer: bytes, message: m.Commit) -> None:
        if self._is_of_reader(peer):
            self.deliveries.commit(message.epoch, message.ends, dict(message.handed))
            self._unused = [unused for unused in self._unused if unused[0] >= self.deliveries.whole]
            self._send(peer, m.Committed())
        elif self._is_before_reading(message):
            self._send(peer, m.Committed())

    def _ask_position(self, peer: bytes, message: m.AskPosition) -> None:
        if self._is_of_reader(peer) or self._is_before_reading(message):
            epoch, rows = self.deliveries.position(message.epoch, message.ends, dict(message.handed))
            base = self.base
            self._send(peer, m.Position(base + epoch, {base + of: spans for of, spans in rows.items()}))

    def _is_before_reading(self, message: m.Commit | m.AskPosition) -> bool:
        """Whether a program asks that has not begun to read: it has nothing, and a checkpoint of it covers nothing."""
        return self.reader is None and not message.handed

    def _is_of_reader(self, peer: bytes) -> bool:
        """Whether a client belongs to the process that reads now, and not to one that is dead by now."""
        return self.reader is not None and self.peers[peer].pid == self.peers[self.reader].pid

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
        self._drop_queued()
        for name, state in self.peers.items():
            if state.role == "writer":
                self._send(name, m.Terminated())
        if self.form is None:
            # Nobody will declare one any more: answer the writers that wait for it, so that they can end.
            self.form = m.Form("rows")
            self._open_waiting()
        self._grant()

    def _reader_left(self, gone: Peer, died: bool) -> None:
        self.reader = None
        self._slot_rows.clear()
        if died and self.recovers:
            return  # who started it says whether there will be another one
        if died and not self.ended_well(gone.pid):
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
        """The reader's process is dead, and another one will read: begin anew. Only attached writers stay, and the counts of what
        does not come again.

        Writers leave their partitions as if another feed needed their place. ``base`` has to say in which epoch the reader begins.
        """
        loss = Loss(self.base + self.deliveries.resumes(), self.deliveries.frontier(), self.deliveries.lost())
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
        for _, rows, tally in self._unused:
            self.total.unused -= rows
            tally.unused -= rows
        self._unused.clear()
        self._begin_anew()
        self.ended = False
        self.progress += 1
        self._grant()
        return loss

    def end_epoch(self) -> None:
        """Put an end-of-epoch mark behind everything published. Complete partitions will not be tried again."""
        self._streams.forget_complete()
        self.deliveries.end_epoch()
        self._count_unused(self.steps.end_epoch())
        self._epoch += 1
        self.demanded = False
        self._to_reader(m.EpochEnd(), None)

    def _count_unused(self, rows: int) -> None:
        if self.terminated:
            rows -= self._fed.published - self._fed.taken  # these are told as left
        if rows > 0:
            self.total.unused += rows
            self._fed.unused += rows
            if self.recovers:
                self._unused.append((self._epoch, rows, self._fed))

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

    # Who may say it, and what it does.
    _HANDLERS: dict[type, tuple[str, Callable[[Any, bytes, Any], None]]] = {  # noqa: RUF012
        m.OpenPartition: ("writer", Partitions._open_partition),
        m.Propose: ("writer", Partitions._propose),
        m.Met: ("writer", Partitions._met),
        m.Register: ("reader", Partitions._register),
        m.Want: ("writer reader", SlotQueue._want),
        m.Publish: ("writer reader", SlotQueue._publish),
        m.GiveBack: ("writer reader", SlotQueue._give_back),
        m.ClosePartition: ("writer", Partitions._close_partition),
        m.OpenReader: ("reader", _open_reader),
        m.Pin: ("reader", _pin),
        m.Done: ("writer reader", SlotQueue._done),
        m.Replayed: ("reader", SlotQueue._on_replayed),
        m.Starving: ("reader", SlotQueue._starve),
        m.SetPace: ("reader", _set_pace),
        m.StepsEnd: ("reader", _steps_end),
        m.Terminate: ("reader", _terminate),
        m.Commit: ("control", _commit),
        m.AskPosition: ("control", _ask_position),
    }
