"""The partitions that writers bring to one feed: who may open one, by which schema it is packed, and how it ends. Pure: no I/O.

A *stream* is one attempt of one writer at one partition. The middle layer of a :class:`~tfos_fast.channel.broker.feed.Feed`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tfos_fast.channel.broker.feed_slots import SlotQueue
from tfos_fast.channel.broker.schema_agreement import check_proposal
from tfos_fast.channel.broker.slot_table import State, TableError
from tfos_fast.channel.broker.streams import Stream
from tfos_fast.channel.codec.fingerprint import Proof
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.failures import to_refused
from tfos_fast.channel.protocol.row_spans import NOWHERE, OPEN, Reached
from tfos_fast.channel.schema.kinds import check_mode
from tfos_fast.errors import TfosError

OnOpen = Callable[[str, int, Callable[..., None]], None]


class Partitions(SlotQueue):
    """The attempts at partitions.

    Parameters
    ----------
    n_slots, clock
        As for :class:`SlotQueue`.
    form, on_open
        As for :class:`~tfos_fast.channel.broker.feed.Feed`.
    """

    def __init__(
        self,
        n_slots: int,
        *,
        form: m.Form | None = None,
        on_open: OnOpen | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(n_slots, clock)
        self.form = form
        self.train = True
        self.blocked = 0.0  # seconds that writers waited for a slot, as they told with the end of each partition
        self.on_partition_done: Callable[[str, int, int, Proof], None] = lambda key, attempt, rows, proof: None
        self.yielding = False
        self.closed = False
        self._on_open = on_open or self._local_open
        self._told = False  # some writer packs by the form

    # ---- open ----------------------------------------------------------------------------------------------------------------

    def _open_partition(self, peer: bytes, message: m.OpenPartition) -> None:
        state = self.peers[peer]
        if state.stream is not None and not state.stream.closed:
            raise TableError(f"partition {state.stream.key} is still open")
        if state.opening:
            raise TableError("a second OpenPartition before the answer")
        if self.closed and message.exchange:
            self._send(peer, m.Refused("ChannelClosed", "this node takes no rows: its main holds (ctx.hold())"))
            return
        if self.yielding and not message.exchange:
            self._send(peer, m.Refused("Yielded", f"partition {message.key} is fed when another feed has got its rows"))
            return
        if self.form is None:
            state.waiting = message
            return
        state.waiting, state.patience = None, message.patience
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
            tally = self._tally_of(message.key)
            stream = state.stream = self._streams.open(
                message.key, message.attempt, peer, tally, exchange=message.exchange, skip=skip, proof=proof
            )
            if not message.exchange:
                self.deliveries.opened(stream.lane, message.key, message.attempt, skip, tally)
            self._send(peer, m.Opened(stream.number, skip, self.form, proof, stop))
            state.flushed = False
            if self._starving:
                self._flush(peer, state)

        state.opening = True
        self._on_open(message.key, message.attempt, reply)

    def _open_waiting(self) -> None:
        """Answer the writers that wait for a form."""
        for name, state in list(self.peers.items()):
            if state.waiting is not None:
                self._open_partition(name, state.waiting)

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

    # ---- schemas -------------------------------------------------------------------------------------------------------------

    def _propose(self, peer: bytes, message: m.Propose) -> None:
        stream = self.peers[peer].stream
        if stream is not None and stream.fenced:
            return  # it has been told
        if self.form is None:
            raise TableError("a proposal without a form")
        try:
            check_proposal(message.schema, self.form)
            number, schema = self._agreement.propose(message.schema, self.form)
        except TfosError as error:
            self._send(peer, to_refused(error))
            return
        self._send(peer, m.Agreed(number, schema))

    def _met(self, peer: bytes, message: m.Met) -> None:
        self._agreement.awaited.meet(message.names)

    def _register(self, peer: bytes, message: m.Register) -> None:
        try:
            check_mode(message.schema, exact=True)
        except TfosError as error:
            self._send(peer, to_refused(error))
            return
        self._send(peer, m.Agreed(self._agreement.number(message.schema), message.schema))

    # ---- the end of one ------------------------------------------------------------------------------------------------------

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

    def _end_lane(self, stream: Stream) -> None:
        """A stream ends unfinished. The next attempt may go on in its lane; for results each attempt begins anew."""
        if stream.exchange:
            self._to_reader(m.StreamEnd(stream.lane, self._streams.exchanges()), None)

    def _begin_anew(self) -> None:
        super()._begin_anew()
        if self.closed:
            self.closed = self.yielding = False
        self.form, self.train, self._told = None, True, False
