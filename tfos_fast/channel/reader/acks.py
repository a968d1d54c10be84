"""Acknowledgements: which slots the reader has taken and which it has let go, told to the broker in one message for several."""

from __future__ import annotations

import os
import time
from typing import Any

from tfos_fast.channel.epochs.replay import Drawn, Keeper, Piece
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.transport.local import LocalConnection
from tfos_fast.native.shared_memory import ReleaseSet

_TELL_S = 0.1  # what was taken and which leases ended is told so long after the last message,
_TOLD_AT_ONCE = 8  # or when there are so many slots to tell of


class Acks:
    """What the broker has not been told yet.

    Parameters
    ----------
    connection : LocalConnection
        The reader's. Its waits also watch for leases that end.
    keeper : Keeper
        Counts the rows that were taken in a replay, which are told as well.

    Attributes
    ----------
    quota : int
        Slots that rows on their way to the reader may take.
    leased : set of int
        Slots that were delivered and are not released.
    taken : list of int
        Slots whose rows were all handed out, not yet told.
    released : ReleaseSet
        Leases that have ended, on whatever thread, and were not collected.
    stream_ended : bool
        A stream has ended since the last message.
    """

    def __init__(self, connection: LocalConnection, keeper: Keeper) -> None:
        self._conn = connection
        self._keeper = keeper
        self.quota = connection.segment.n_slots  # less when some are kept for results
        self.leased: set[int] = set()
        self.taken: list[int] = []
        self.released = ReleaseSet(connection.segment.n_slots)
        self.stream_ended = False
        self._ended: list[int] = []  # slots whose leases have ended, not yet told
        self._told = 0.0  # when the last Done was sent
        self._at_once = 1
        connection.wake_on(self.released.fd, self.send)

    def wake(self) -> None:
        """End the wait of another thread for messages, so that it looks for what this thread has left for it."""
        os.eventfd_write(self.released.fd, 1)

    def limit(self, quota: int) -> None:
        """The broker has said how many slots there are for rows."""
        self.quota = quota
        self._at_once = max(1, min(_TOLD_AT_ONCE, quota // 5))

    def lease(self, slot: int) -> Any:
        """A delivered slot's memory. The slot is released when the last reference to this, or to what aliases it, is gone."""
        self.leased.add(slot)
        return self._conn.segment.lease(slot, self.released)

    def finish(self, slot: int | Piece) -> None:
        """The slot's rows were all handed out or carried."""
        if isinstance(slot, Drawn):
            return  # told when it was drawn
        if isinstance(slot, Piece):
            self._keeper.finish(slot.rows)
        else:
            self.taken.append(slot)  # told with the next Done: one message for a slot, not two

    def skip(self, slot: int) -> None:
        """The slot's rows are not wanted, and it was never leased."""
        self.taken.append(slot)
        self._ended.append(slot)

    def is_due(self) -> bool:
        """Whether slots that were taken or are free again must be told of now: one message for several, while slots abound."""
        if self.stream_ended:  # its writer waits for the last slot to be taken
            return True
        if not (self.taken or self._ended or self.released.pending):
            return False
        if len(self.taken) >= self._at_once or len(self._ended) >= self._at_once:
            return True
        return len(self.leased) > self.quota // 2 or time.monotonic() - self._told > _TELL_S

    def collect(self) -> None:
        """Note the leases that have ended."""
        ended = self.released.drain()
        if ended:
            self.leased.difference_update(ended)
            self._ended.extend(ended)

    def send_replayed(self) -> None:
        """Tell how many rows of a replay were taken."""
        rows = self._keeper.told()
        if rows:
            self._conn.send(m.Replayed(rows))

    def send(self) -> None:
        """Tell everything."""
        self.collect()
        self.send_replayed()
        if self._ended or self.taken:
            taken, self.taken = self.taken, []
            ended, self._ended = self._ended, []
            self._conn.send(m.Done(taken, ended))
            self._told = time.monotonic()
        self.stream_ended = False
