"""Row mode: slots are taken from the inbox until so many rows are ready."""

from __future__ import annotations

import time

from tfos_fast.channel.epochs.replay import Piece
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.reader.acks import Acks
from tfos_fast.channel.reader.inbox import LINGER_S, Inbox
from tfos_fast.channel.reader.position import Trail
from tfos_fast.channel.reader.row_buffer import RowBuffer


class RowReader:
    """Fills the buffer that rows are handed out from.

    Parameters
    ----------
    inbox : Inbox
    acks : Acks
    rows : RowBuffer
    trail : Trail
        Is told whose rows were made.
    train : bool
    """

    def __init__(self, inbox: Inbox, acks: Acks, rows: RowBuffer, trail: Trail, *, train: bool) -> None:
        self._inbox = inbox
        self._acks = acks
        self._rows = rows
        self._trail = trail
        self._train = train
        self._slot: int | Piece = -1  # that rows are made from

    def fill(self, n: int, deadline: float | None = None) -> None:
        """Wait until there are ``n`` rows, or as many as there will be, or for so long; in inference as many as have come."""
        rows, inbox = self._rows, self._inbox
        quiet_since: float | None = None
        while len(rows) < n and not inbox.leaving:
            if not rows.wants_slot:
                stream, have = rows.stream, len(rows)
                if rows.make():
                    self._acks.finish(self._slot)
                self._trail.note(stream, len(rows) - have)
                continue
            item = inbox.next(wait=deadline is None and (self._train or not len(rows)))
            if item is None and deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                inbox.pause(min(left, LINGER_S))
            elif item is None:
                if inbox.all_ended:
                    return
                # Inference: rows of a partition whose feeder waits for their results must not wait for company.
                quiet_since = quiet_since or time.monotonic()
                if time.monotonic() - quiet_since > LINGER_S:
                    return
                inbox.pause(LINGER_S)
            elif isinstance(item, m.Deliver):
                quiet_since = None
                self._slot = item.slot
                rows.push(*inbox.open(item), item.stream, item.rows)
            elif isinstance(item, Piece):
                self._slot = item
                rows.push(*inbox.open(item), item.stream, item.rows, item.start)
            elif isinstance(item, m.EpochEnd):
                self._trail.end_epoch()
            elif isinstance(item, m.FeedEnd):
                return
