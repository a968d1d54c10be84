"""The reader's inbox: slots and marks in the order of their coming, and the wait for more of them.

Kept rows that are dealt out again come through it as well, in the place of the order to replay them.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfos_fast.channel.codec.layout import Layout, layout
from tfos_fast.channel.epochs.replay import Drawn, Keeper, Piece
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.failures import to_exception
from tfos_fast.channel.reader.acks import Acks
from tfos_fast.channel.reader.results import ResultWriter
from tfos_fast.channel.schema.columns import Schema
from tfos_fast.channel.transport.connection import STARVE_AFTER_MS
from tfos_fast.channel.transport.local import LocalConnection
from tfos_fast.errors import ChannelError, StallTimeout, TfosError
from tfos_fast.native.row_packer import move_rows
from tfos_fast.values.aligned import aligned_empty

log = logging.getLogger(__name__)

LINGER_S = 0.02  # inference: a short batch goes out when some writer is there and nothing came for so long
OWED_S = 10.0  # inference: who waits so long for rows while some have no result yet is warned, once
_MOST_LAYOUTS = 64  # that are remembered; slots with a heap are laid out for many numbers of rows
_UNTOLD_MS = 40  # so long what was taken may stay untold, while a reader waits for more
_PATIENCE_MS, _GAPS = 200, 4  # at most, and of so many slots: see _patience


class Inbox:
    """What has come from the broker and was not read yet.

    Parameters
    ----------
    connection : LocalConnection
        The reader's. Who handles its messages puts them here.
    keeper : Keeper
    acks : Acks
        Told before a wait, as are results: nobody else must wait for what the reader could say.
    results : ResultWriter
    train : bool

    Attributes
    ----------
    items : deque
        Messages ``Deliver``, ``StreamEnd``, ``EpochEnd``, ``FeedEnd``, ``Settle``, ``Keep`` and ``Replay``, and drawn slots.
    batch : int
        Rows in a batch, where that is known.
    epoch_ends : bool
        Epochs matter to who reads.
    feed_ended : bool
        The end of the feed was read.
    all_ended : bool
        Inference: no writer is left that could fill up a batch.
    leaving : bool
        Nothing more is wanted. Set by any thread; a wait on another one ends then.
    """

    def __init__(self, connection: LocalConnection, keeper: Keeper, acks: Acks, results: ResultWriter, *, train: bool) -> None:
        self._conn = connection
        self._keeper = keeper
        self._acks = acks
        self._results = results
        self._train = train
        self.items: deque[Any] = deque()
        self.batch = 0
        self.epoch_ends = False
        self.feed_ended = False
        self.all_ended = False
        self.leaving = False
        self._schemas: dict[int, Schema] = {}
        self._epoch = 0  # ends of an epoch that have come
        self._layouts: dict[tuple[int, int], Layout] = {}
        self._delivered = 0.0  # when the last slot came; 0: none of this epoch
        self._warned = False  # of rows without a result
        self._gaps: deque[float] = deque(maxlen=_GAPS)  # how long after the one before the last ones came

    # ---- coming in -----------------------------------------------------------------------------------------------------------

    def put(self, message: Any) -> None:
        """A message has come."""
        if isinstance(message, m.Deliver):
            if message.schema is not None:
                self._schemas[message.schema_id] = message.schema
            now = time.monotonic()
            if self._delivered:
                self._gaps.append(now - self._delivered)
            self._delivered = now
            if not self._train:
                self._results.note(message.stream, answered=message.answered)
        elif isinstance(message, m.EpochEnd):
            self._epoch += 1
            self._delivered = 0.0
            self._gaps.clear()
        self.items.append(message)

    def put_back(self, item: Any) -> None:
        """The item is to come once more, as the next one."""
        self.items.appendleft(item)

    def clear(self) -> None:
        """Drop everything."""
        self.items.clear()

    # ---- reading -------------------------------------------------------------------------------------------------------------

    def next(self, *, wait: bool) -> Any:
        """The next slot, piece of kept rows, or mark.

        Parameters
        ----------
        wait : bool
            Wait for it.

        Returns
        -------
        Deliver, Piece, StreamEnd, EpochEnd, FeedEnd, Settle or None
            ``FeedEnd`` again and again when the feed has ended. None: there is nothing now.

        Raises
        ------
        TfosError
            The feed has failed, or rows cannot be kept.
        """
        while True:
            if self._keeper.ahead is not None:
                return self._keeper.next()
            item = self._next_message(wait=wait)
            if isinstance(item, m.Keep | m.Replay):
                self._obey(item)
                continue
            if isinstance(item, m.StreamEnd):
                self._keeper.end_lane(item.stream)
                self._acks.stream_ended = True
            if isinstance(item, m.FeedEnd):
                if item.kind:
                    self._conn.failure = to_exception(m.Failed(item.kind, item.text))
                    raise self._conn.failure
                self.feed_ended = True
            return item

    def marks(self) -> Iterator[m.StreamEnd | m.EpochEnd]:
        """Take the marks at the head, so that the feed's end can be known without reading a row. Does not wait."""
        while isinstance(self._keeper.ahead, m.StreamEnd):
            yield self._keeper.ahead
            self._keeper.next()
        while self.items and self._keeper.ahead is None and not isinstance(self.items[0], m.Deliver | m.Replay | Drawn):
            item = self.items[0]
            if (
                isinstance(item, m.Settle)
                or (isinstance(item, m.EpochEnd) and self.epoch_ends)
                or (isinstance(item, m.FeedEnd) and item.kind)
            ):
                return
            self.items.popleft()
            self._note_open(item)
            if isinstance(item, m.StreamEnd):
                self._keeper.end_lane(item.stream)
                self._acks.stream_ended = True
                yield item
            elif isinstance(item, m.Keep):
                self._obey(item)
            elif isinstance(item, m.EpochEnd):
                yield item
            elif isinstance(item, m.FeedEnd):
                self.feed_ended = True

    def open(self, item: m.Deliver | Piece) -> tuple[Layout, Any]:
        """Where the columns of a slot or piece lie, and its memory, of a slot the lease.

        What is to be kept of a slot is kept now: later the program may change it.
        """
        if isinstance(item, Piece):
            return item.layout, item.buffer
        where = self._layouts.get((item.schema_id, item.capacity))
        if where is None:
            where = layout(self._schemas[item.schema_id], item.capacity, self._conn.segment.slot_bytes)
            if len(self._layouts) < _MOST_LAYOUTS:
                self._layouts[item.schema_id, item.capacity] = where
        lease = self._acks.lease(item.slot)
        if self._keeper.keeps:
            self._failing(lambda: self._keeper.add(where, lease, item.rows, item.stream))
        return where, lease

    def draw(self) -> None:
        """Copy the rows of all slots that lie here, and give the slots back: writers need them for the rows that come next.

        Only memory that the rows use is touched.
        """
        items, self.items = self.items, deque()
        for item in items:
            if isinstance(item, m.Keep):
                self._obey(item)  # the slots behind it are opened now
                continue
            if isinstance(item, m.Deliver):
                where, lease = self.open(item)
                here = layout(where.schema, item.rows, where.slot_bytes)
                memory = aligned_empty((where.slot_bytes,), np.dtype(np.uint8))
                move_rows(where, lease, 0, item.rows, here, memory)
                del lease
                self._acks.finish(item.slot)
                item = Drawn(here, memory, item.stream, 0, item.rows)
            self.items.append(item)
        self._acks.send()

    def _next_message(self, *, wait: bool) -> Any:
        if not self.items:
            self._conn.pump()
        if not self.items and wait and not self.feed_ended:
            self._results.flush()
            self._acks.collect()
            self._acks.send_replayed()
            if self._acks.is_due():  # a reader that starves sends it anyway
                self._acks.send()
            patience = self._patience()
            if patience > _UNTOLD_MS:
                self._conn.pump(_UNTOLD_MS)
                self._acks.send()
                patience -= _UNTOLD_MS
            if not self.items:
                self.wait(starve_ms=patience)
        if not self.items:
            return m.FeedEnd() if self.feed_ended else None
        item = self.items.popleft()
        self._note_open(item)
        return item

    def _note_open(self, item: Any) -> None:
        """A writer that has ended its partition waits for results; when all do, nobody will fill up a batch."""
        if isinstance(item, m.StreamEnd):
            self.all_ended = not self._train and item.open == 0
        elif isinstance(item, m.Deliver):
            self.all_ended = False

    def _obey(self, order: m.Keep | m.Replay) -> None:
        if isinstance(order, m.Keep):
            self._failing(lambda: self._keeper.begin(order))
        else:
            self._keeper.replay(order.seed, self.batch)

    def _failing(self, keep: Callable[[], None]) -> None:
        """What cannot be kept is missing in every later epoch: no row is handed out any more."""
        try:
            keep()
        except (TfosError, OSError, ValueError) as error:
            self._conn.failure = error if isinstance(error, TfosError) else ChannelError(f"rows could not be kept: {error!r}")
            raise self._conn.failure from error

    # ---- waiting -------------------------------------------------------------------------------------------------------------

    def wait(self, have: int = 0, *, starve_ms: int = STARVE_AFTER_MS) -> None:
        """Wait for more than ``have`` items; writers are asked for what they have when nothing comes for ``starve_ms``.

        Results that another thread gives meanwhile are sent.
        """
        while not (len(self.items) > have or self.leaving):
            self._wait_for_word(have, starve_ms)
            if self._results.given:
                self._results.flush()

    def _wait_for_word(self, have: int, starve_ms: int) -> None:
        ready = lambda: True if len(self.items) > have or self.leaving or self._results.given else None  # noqa: E731
        what, starve = "rows (a feed, or the end of the feed)", self.starve
        if not self._warned and self._conn.stall_timeout > OWED_S and self._results.owed:
            try:
                self._conn.wait(ready, what, starve=starve, starve_ms=starve_ms, timeout=OWED_S)
                return
            except StallTimeout:
                self._warned = True
                log.warning(
                    "no rows have come for %g s, and %d rows that were handed out have no result yet: their tasks wait. Give "
                    "batch_results() one result for each row",
                    OWED_S,
                    self._results.owed,
                )
        self._conn.wait(ready, what, starve=starve, starve_ms=starve_ms)

    def pause(self, seconds: float) -> None:
        """Handle messages for up to so long; writers are asked for what they have when nothing comes at once."""
        have = len(self.items)
        self._results.flush()
        self._acks.send()
        # Results may have waited for a slot, and what came meanwhile lies here: no other message need follow it.
        if len(self.items) > have or self._conn.pump(max(1, min(STARVE_AFTER_MS, int(seconds * 1000)))):
            return
        self.starve()
        if len(self.items) == have:
            self._conn.pump(max(1, int(seconds * 1000) - STARVE_AFTER_MS))

    def starve(self) -> None:
        """Ask writers for what they have."""
        self._results.flush()
        self._acks.send()
        self._conn.send(m.Starving(self._epoch, self.epoch_ends))

    def _patience(self) -> int:
        """Milliseconds without a slot after which writers are asked for what they have.

        Twice the longest time that lay between the last slots: a writer in full swing, which the reader outruns, is to fill its
        slots, and to tell of several at once. What it is asked for earlier costs it, the broker and the reader a message each.
        """
        return max(STARVE_AFTER_MS, min(_PATIENCE_MS, int(2000 * max(self._gaps, default=0.0))))
