"""What a reader has to do with its epochs when it goes in step with other nodes; :class:`Stepper` drives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfos_fast.channel.epochs.replay import Keeper, Piece
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.lockstep import Gate, Pace
from tfos_fast.channel.reader.acks import Acks
from tfos_fast.channel.reader.columns import ColumnReader
from tfos_fast.channel.reader.inbox import Inbox
from tfos_fast.channel.reader.position import Trail
from tfos_fast.errors import FormError


class InStep:
    """The part of the reader that keeps to the gate. Epochs that end early are read to their end, and dropped."""

    if TYPE_CHECKING:
        _lock: Any
        _conn: Any
        _form: Any
        _train: bool
        _terminated: bool
        _acks: Acks
        _inbox: Inbox
        _column_reader: ColumnReader
        _keeper: Keeper
        _check_open: Any
        trail: Trail

    gate: Gate | None = None
    at_end = False  # the mark that ends the epoch was read
    _skipping = False  # what comes before that mark is not wanted

    def go_in_step(self, pace: Pace) -> None:
        """Hand out batches only as all nodes agree. To be said before anything else.

        Raises
        ------
        FormError
            The feed was opened without, or with another pace; or it is for inference.
        """
        with self._lock:
            if not self._train:
                raise FormError("an inference has a result for every row: uneven= is for training")
            if self.gate is None:
                if self._form is not None:
                    raise FormError(
                        f"this feed was opened without uneven={pace.uneven!r}; nodes go in step from their first rows on"
                    )
                self._conn.send(m.SetPace(pace))
                self.gate = Gate(pace)
            elif self.gate.pace != pace:
                raise FormError(f"this feed goes in step with {self.gate.pace}, and {pace} was asked for; they must be the same")

    def begin_steps(self) -> bool:
        """Come to the beginning of the gate's epoch. Waits for the end of the one before, where that is not here yet.

        Returns
        -------
        bool
            False: the reader wants no more rows.
        """
        with self._lock:
            self._check_open()
            self._drop(wait=True)
            return not (self._terminated or self._inbox.leaving)

    def wait_steps(self, seen: tuple[int, int, bool], *, rows: bool) -> None:
        """Wait until the gate's state is not ``seen``, or until more has come."""
        with self._lock:
            gate, inbox, have = self.gate, self._inbox, len(self._inbox.items)
            assert gate is not None
            self._acks.send()

            def ready() -> bool | None:
                return True if gate.state != seen or inbox.leaving or (rows and len(inbox.items) > have) else None

            what = f"step {gate.done + 1} of the epoch, which not all nodes can do yet" if not rows else "rows"
            self._conn.wait(ready, what, starve=inbox.starve if rows else None)

    def end_steps(self) -> None:
        """All steps of the epoch are done: drop what is left of it. Waits for its end."""
        with self._lock:
            gate = self.gate
            if self._terminated or self._inbox.leaving or gate is None:
                return
            self._column_reader.drop()
            if self.at_end:
                self._begin_epoch()
            else:
                self._conn.send(m.StepsEnd(gate.epoch))
                self._skipping = True
                # The next epoch cannot begin before that anyway; and if the program left now, what is dropped would not be counted.
                self._drop(wait=True)
            self._acks.send()

    def settle(self) -> bool:
        """Whether a mark says since the last call that nothing more is in sight, for who cuts batches by himself."""
        settled, self._column_reader.settled = self._column_reader.settled, False
        return settled

    def _begin_epoch(self) -> None:
        assert self.gate is not None
        self.gate.next_epoch()
        self.at_end = self._skipping = self._column_reader.settled = False

    def _drop(self, *, wait: bool) -> None:
        while self._skipping and not self._inbox.leaving:
            item = self._inbox.next(wait=wait)
            if item is None:
                return
            if isinstance(item, m.EpochEnd | m.FeedEnd):
                if isinstance(item, m.EpochEnd):
                    self.trail.end_epoch()
                self._begin_epoch()
            elif isinstance(item, Piece):
                self._acks.finish(item)
            elif isinstance(item, m.Deliver):
                if self._keeper.keeps:
                    self._inbox.open(item)  # later epochs may have more steps
                    self._acks.finish(item.slot)
                else:
                    self._acks.skip(item.slot)
                self._acks.send()
