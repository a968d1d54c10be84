"""The reader: takes delivered slots and hands out rows, batches of arrays that alias the slots, and (for inference) takes results.

Messages are handled on the thread that calls; a lock makes calls from several threads (as tf.data makes them) take turns.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from tfos_fast._segment import ReleaseSet
from tfos_fast.channel import messages as m
from tfos_fast.channel.assembler import Assembler, Batch, Columns, Slot
from tfos_fast.channel.blocks import Block
from tfos_fast.channel.connection import STARVE_AFTER_MS, LocalConnection, to_exception
from tfos_fast.channel.cutter import Cutter
from tfos_fast.channel.instep import InStep
from tfos_fast.channel.lattice import Declared, Nulls, apply_spec
from tfos_fast.channel.layout import Layout, layout
from tfos_fast.channel.replay import Keeper, Piece
from tfos_fast.channel.results import ResultWriter
from tfos_fast.channel.rowbuffer import RowBuffer
from tfos_fast.channel.schema import Schema
from tfos_fast.channel.trail import Trail
from tfos_fast.errors import ChannelError, FormError, TfosError

_KEEP_FREE = 2  # slots that a hoarding reader must leave in motion
_PATIENCE_MS = 40  # at most: see _patience
_TELL_S = 0.02  # what was taken and which leases ended is told so long after the last message,
_TOLD_AT_ONCE = 8  # or when there are so many slots to tell of
_LINGER_S = 0.02  # inference: a short batch goes out when some writer is there and nothing came for so long
Spec = dict[str, Declared]


class Reader(InStep):
    """The one reader of a channel. Made by :meth:`Channel.reader() <tfos_fast.channel.Channel.reader>`.

    Parameters
    ----------
    address : str
    train : bool
        False: inference. Every row then needs a result (``write_results``), and a batch may be short when nothing more has come.
    stall_timeout : float
        Seconds that a wait may last with nothing moving; the default is a day, since a trainer may well wait for its driver.

    Attributes
    ----------
    schema : Schema or None
        What column batches look like; known once the first rows came.
    """

    def __init__(self, address: str, *, train: bool = True, stall_timeout: float = 86400.0) -> None:
        self.schema: Schema | None = None
        self.spec: Spec = {}
        self._train = train
        self._lock = threading.RLock()
        self._form: m.Form | None = None
        self._inbox: deque[Any] = deque()  # Deliver, StreamEnd, EpochEnd, FeedEnd in order
        self._schemas: dict[int, Schema] = {}
        self._current: int | Piece | None = None  # the slot that the assembler cuts
        self._epoch_ends = False  # epochs matter to who reads
        self._epoch = 0  # ends of an epoch that have come
        self._assembler = Assembler()
        self._rows = RowBuffer(origins=not train)
        self.trail = Trail()
        self._address = address
        self._aside: LocalConnection | None = None  # for what is said while another thread waits for rows
        self._aside_lock = threading.Lock()
        self._row_slot: int | Piece = -1  # the slot that rows are made from
        self._keeper = Keeper()
        self._origin: deque[tuple[int, int]] = deque()  # whose rows were handed out and have no result yet
        self._leased: set[int] = set()  # slots delivered and not released
        self._taken: list[int] = []  # slots whose rows were all handed out, and
        self._early: set[int] = set()  # slots told as taken before the schema was fixed
        self._told = 0.0  # when the last Done was sent
        self._ended: list[int] = []  # slots whose leases have ended, both not yet told
        self._delivered = 0.0  # when the last slot came, and
        self._interval = 0.0  # how long after the one before; 0: the first one of an epoch
        self._feed_ended = False
        self._terminated = False
        self._leaving = False  # terminate() or close() was called, perhaps while another thread waits for rows
        self._hoarded = 0
        self._conn = LocalConnection(address, "reader", self._handle, stall_timeout=stall_timeout)
        self._quota = self._conn.segment.n_slots  # of slots for rows; less when some are kept for results
        self._told_at_once = 1
        self._stream_ended = False
        self._released = ReleaseSet(self._conn.segment.n_slots)
        self._conn.wake_on(self._released.fd, self._send_done)
        self._results = ResultWriter(self._conn)
        self._all_ended = False  # inference: no writer is left that could fill up a batch
        self.on_close: Callable[[], None] | None = None  # called once, by close

    # ---- state ---------------------------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether the feed has ended and every row was handed out (or the reader terminated it). Does not wait."""
        if self._rows.ready and not self._terminated:
            return False  # most often, for who asks before every row
        if not self._lock.acquire(blocking=False):
            return self._terminated  # another thread waits for rows
        try:
            if self._terminated:
                return True
            if not self._feed_ended:
                self._conn.pump()
                self._drop(wait=False)
                self._drain_marks()
            left = len(self._rows) or not self._rows.wants_slot or self._assembler.waiting_rows or not self._assembler.wants_slot
            return self._feed_ended and not left
        finally:
            self._lock.release()

    @property
    def summary(self) -> dict[str, int]:
        """Counts so far: batches ``aliased`` and ``copied``, and slots ``hoarded``: given back early, the reader kept too many."""
        return {"aliased": self._assembler.aliased, "copied": self._assembler.copied, "hoarded": self._hoarded}

    @property
    def train(self) -> bool:
        """Whether rows are for training: no results go back."""
        return self._train

    @property
    def segment(self) -> Any:
        """The mapped segment."""
        return self._conn.segment

    # ---- rows ----------------------------------------------------------------------------------------------------------------

    def next_rows(self, n: int) -> list[Any]:
        """The next ``n`` rows, equal to what was fed, Python types included. Values are copied.

        Waits for ``n`` rows. Fewer come only at the end of the feed, and in inference when every open partition has
        ended or nothing has come for a moment.
        """
        with self._lock:
            if len(self._rows.ready) < n:
                self._check_open()
                if not self._terminated:
                    self._declare(m.Form("rows"))
                    self._fill_rows(n)
                self._send_done()
            rows, origin = self._rows.take(n)
            if origin:
                self._origin.extend(origin)
            return rows

    def _fill_rows(self, n: int) -> None:
        quiet_since: float | None = None
        while len(self._rows) < n and not self._leaving:
            if not self._rows.wants_slot:
                stream, have = self._rows.stream, len(self._rows)
                if self._rows.make():
                    self._finish(self._row_slot)
                self.trail.note(stream, len(self._rows) - have)
                continue
            item = self._next_item(wait=not (len(self._rows) and not self._train))
            if item is None:
                if self._all_ended:
                    return
                # Inference: rows of a partition whose feeder waits for their results must not wait for company.
                quiet_since = quiet_since or time.monotonic()
                if time.monotonic() - quiet_since > _LINGER_S:
                    return
                self._pause(_LINGER_S)
            elif isinstance(item, m.Deliver):
                quiet_since = None
                self._row_slot = item.slot
                where, lease = self._open(item)
                self._rows.push(where, lease, item.stream, item.rows)
            elif isinstance(item, Piece):
                self._row_slot = item
                self._rows.push(item.layout, item.buffer, item.stream, item.rows, item.start)
            elif isinstance(item, m.EpochEnd):
                self.trail.end_epoch()
            elif isinstance(item, m.FeedEnd):
                return

    # ---- columns -------------------------------------------------------------------------------------------------------------

    def batches(self, n: int, *, spec: Spec | None = None, drop_remainder: bool = False) -> Iterator[Columns]:
        """Batches of ``n`` rows as arrays, until the feed ends.

        Memory is not copied for batches that lie aligned in one slot; partition tails and what is not aligned is copied. The arrays
        may be kept: their slot is reused only after the last of them is gone.

        Parameters
        ----------
        n : int
            Rows in a batch. Multiples of 64 keep every batch aligned.
        spec : dict, optional
            Column name -> (dtype name, shape of one row's value or None).
        drop_remainder : bool
            Leave out the last short batch.

        Yields
        ------
        dict
            Column name -> array of shape ``(n, *shape)``; object arrays for strings, bytes and objects; a
            :class:`~tfos_fast.channel.ragged.Ragged` for lists whose lengths differ.
        """
        while True:
            batch = self.next_batch(n, spec=spec)
            if batch is None or (drop_remainder and batch.rows < n):
                return
            yield batch.columns

    def open_columns(
        self,
        n: int,
        spec: Spec | None = None,
        *,
        nulls: dict[str, Nulls] | None = None,
        tensors: bool = False,
        wait: bool = True,
    ) -> Schema | None:
        """Declare column mode; the first declaration counts.

        Parameters
        ----------
        n, spec
            As for ``batches``.
        nulls : dict, optional
            Column name, or ``"*"`` for all others -> what becomes of None.
        tensors : bool
            Columns of Python objects are refused where rows bring them.
        wait : bool
            Wait for the first rows.

        Returns
        -------
        Schema or None
            With ``wait`` that of the first rows; None when the feed ended before they came.
        """
        with self._lock:
            if self._terminated:
                return self.schema
            self._declare(m.Form("columns", n, spec or {}, nulls or {}, tensors))
            if wait and self.schema is None:
                self._pin(n, None)
            return self.schema

    def next_batch(
        self,
        n: int,
        *,
        spec: Spec | None = None,
        epoch_ends: bool = False,
        timeout: float | None = None,
        most: int = 1,
        runs: bool = False,
    ) -> Batch | None:
        """The next batch of ``n`` rows with its columns.

        Parameters
        ----------
        n, spec
            As for ``batches``.
        epoch_ends : bool
            Also give the short batch, then None, at the end of an epoch of the feed.
        timeout : float, optional
            Seconds after which None is returned although the feed goes on; with ``epoch_ends`` a batch without rows instead.
        most : int
            Up to so many batches may come together as one, if they lie behind each other in one slot.
        runs : bool
            Not batches of ``n``, but the rows of each slot together, for who draws from them in an order of his own.

        Returns
        -------
        Batch or None
            None at the end (see also ``ended``) or after the timeout.
        """
        if n < 1:
            raise ValueError(f"a batch needs at least one row, not {n}")
        with self._lock:
            self._epoch_ends = self._epoch_ends or epoch_ends
            if self._train and most == 1 and not (runs or self._leaving or self._conn.failure):
                batch = self._assembler.inside(n)
                if batch is not None:
                    self.trail.note(*batch.origin[0])
                    if (self._taken or self._released.pending) and self._done_is_due():
                        self._send_done()
                    return batch
            self._check_open()
            if self._conn.failure is not None:
                self._conn.check()
            if self._terminated:
                return None
            if self.schema is None or self._form is None or self._form.mode != "columns":
                self._declare(m.Form("columns", n, spec or {}))
            deadline = None if timeout is None else time.monotonic() + timeout
            if self.schema is None and not self._pin(n, deadline):
                return Batch({}, 0) if epoch_ends and not self._leaving else None
            batch = self._next_columns(n, epoch_ends, deadline, most, runs)
            if batch is not None:
                if not self._train:
                    self._origin.extend(batch.origin)
                for part in batch.origin:
                    self.trail.note(*part)
            if self._keeper.untold or batch is None or self._done_is_due():
                self._send_done()
            return batch

    def _next_columns(self, n: int, epoch_ends: bool, deadline: float | None, most: int, runs: bool) -> Batch | None:
        quiet_since: float | None = None
        while not self._leaving:
            batch = self._assembler.run() if runs else self._assembler.take(n, most)
            if batch is not None:
                self._retire()
                return batch
            self._retire()
            if not self._assembler.wants_slot:
                continue
            impatient = not self._train and self._assembler.waiting_rows > 0
            item = self._next_item(wait=deadline is None and not impatient)
            if item is None:
                now = time.monotonic()
                quiet_since = quiet_since or now
                if impatient and (self._all_ended or now - quiet_since > _LINGER_S):
                    return self._assembler.rest(n)
                if deadline is not None and now >= deadline:
                    return Batch({}, 0) if epoch_ends else None
                self._pause(_LINGER_S if deadline is None else min(_LINGER_S if impatient else 0.1, deadline - now))
            elif isinstance(item, m.Deliver):
                quiet_since = None
                if self.schema is None:  # an epoch without rows came before
                    self._inbox.appendleft(item)
                    if not self._pin(n, deadline):
                        return Batch({}, 0) if epoch_ends and not self._leaving else None
                else:
                    self._push(item)
            elif isinstance(item, Piece):
                self._push(item)
            elif isinstance(item, m.StreamEnd):
                self._assembler.end_stream(item.stream)
            elif isinstance(item, m.Settle) and runs:
                self._settled = True
                return Batch({}, 0)
            elif isinstance(item, m.Settle):
                rest = self._assembler.rest(n)
                if rest is not None:
                    self._inbox.appendleft(item)
                    return rest
            elif isinstance(item, m.FeedEnd) or epoch_ends:
                rest = self._assembler.rest(n)
                if rest is not None:
                    self._inbox.appendleft(item)  # once more, until nothing is left
                elif isinstance(item, m.EpochEnd):
                    self.trail.end_epoch()
                return rest
            elif isinstance(item, m.EpochEnd):
                self.trail.end_epoch()
        return None

    def _open(self, message: m.Deliver) -> tuple[Layout, Any]:
        """Where the slot's columns lie, and its lease. What is to be kept is kept now: later the program may change it."""
        where = layout(self._schemas[message.schema_id], message.capacity, self._conn.segment.slot_bytes)
        lease = self._lease(message)
        if self._keeper.keeps:
            self._failing(lambda: self._keeper.add(where, lease, message.rows, message.stream))
        return where, lease

    def _push(self, item: m.Deliver | Piece) -> None:
        self._collect()
        if isinstance(item, Piece):
            self._current = item
            where, lease, alias, first = item.layout, item.buffer, True, item.start
        else:
            self._current = item.slot
            (where, lease), first = self._open(item), 0
            # Leases never stop progress: who keeps all but two slots gets copies from then on. Slots in the hands of writers that
            # wait for their rows do not move either, so one more than these must stay.
            alias = len(self._leased) <= self._quota - max(_KEEP_FREE, item.granted + 1)
            if not alias:
                self._hoarded += 1
        assert self.schema is not None
        cut = Cutter(where, lease, first + item.rows, self.schema)
        self._assembler.push(Slot(item.stream, first + item.rows, cut, alias, cut.grain, first))

    def _pin(self, n: int, deadline: float | None) -> bool:
        """Fix the schema once the first batch lies in the inbox; False when the deadline came first.

        Not at the first slot: a partition's first batches may hold one row, and a column that begins with an int may go on with
        floats. Half of all slots is as long as it can wait.
        """
        while True:
            slots = [item for item in self._inbox if isinstance(item, m.Deliver)]
            if self._leaving:
                return False
            if slots and (not self._train or len(slots) >= self._quota // 2 or sum(item.rows for item in slots) >= n):
                break
            if any(isinstance(item, m.Settle | m.EpochEnd | m.FeedEnd) for item in self._inbox):
                if slots:
                    break
                return True
            # Fewer rows than a batch may be all that a feed has: they are here, so the feed must not wait for us to cut them.
            early = [item.slot for item in slots if item.slot not in self._early]
            if early:
                self._early.update(early)
                self._conn.send(m.Done(early, []))
            have = len(self._inbox)
            if deadline is None:
                self._conn.wait(
                    lambda have=have: True if len(self._inbox) > have or self._leaving else None,  # type: ignore[misc]
                    "rows (a feed, or the end of the feed)",
                    starve=self._starve,
                )
            elif time.monotonic() >= deadline:
                return False
            else:
                self._pause(min(0.1, deadline - time.monotonic()))
        self._conn.send(m.Pin())
        pinned = self._conn.ask(m.Pinned, "the broker to fix the schema").schema
        # Writers that came before the spec was known packed without it; what they packed is cast here.
        self.schema = apply_spec(pinned, self.spec) if self.spec else pinned
        return True

    def _retire(self) -> None:
        if self._assembler.wants_slot and self._current is not None:
            slot, self._current = self._current, None
            self._finish(slot)

    # ---- what a checkpoint covers --------------------------------------------------------------------------------------------

    def commit(self, rows: int | None = None, epoch: int | None = None) -> None:
        """A checkpoint covers the rows that were handed out: should this process die, they do not come again.

        Does not wait for a thread that reads. When it returns, the broker knows.

        Parameters
        ----------
        rows : int, optional
            The first so many of all rows that this reader has handed out, as ``trail.total`` counts them; default: all of them.
        epoch : int, optional
            Ends of an epoch that lie behind them; default: all that were come by.

        Raises
        ------
        FormError
            It is an inference; or the rows behind these were handed out too long ago to be told apart.
        """
        with self._aside_lock:
            rows, counts = self._handed(rows)
            self._ask_aside(m.Commit, m.Committed, epoch, counts)
            self.trail.committed(rows)

    def position(self, rows: int | None = None, epoch: int | None = None) -> tuple[int, dict[int, dict[str, list[Any]]]]:
        """What ``commit`` with the same arguments would cover, as partitions and rows.

        Returns
        -------
        tuple
            The number of the epoch, and epoch -> partition -> spans of its rows, for this epoch and the one before.

        Raises
        ------
        FormError
        """
        with self._aside_lock:
            _, counts = self._handed(rows)
            answer = self._ask_aside(m.AskPosition, m.Position, epoch, counts)
            return answer.epoch, answer.rows

    def _handed(self, rows: int | None) -> tuple[int, dict[int, int]]:
        if not self._train:
            raise FormError("a commit is for training: an inference has its results")
        rows = self.trail.total - len(self._rows) if rows is None else rows
        try:
            return rows, self.trail.counts(rows)
        except ValueError as error:
            raise FormError(f"no checkpoint of so long ago can be committed: {error}") from None

    def _ask_aside(self, ask: Any, answer: type[Any], epoch: int | None, counts: dict[int, int]) -> Any:
        if self._aside is None:
            self._aside = LocalConnection(self._address, "control", None, stall_timeout=86400.0)
        epoch = self.trail.epoch if epoch is None else epoch
        self._aside.send(ask(epoch, self._epoch_ends, list(counts.items())))
        return self._aside.ask(answer, "the broker to note what a checkpoint covers")

    # ---- results -------------------------------------------------------------------------------------------------------------

    def write_results(self, results: list[Any] | Block) -> None:
        """Send results back, one for each row handed out, in the same order.

        Parameters
        ----------
        results : list or Block
            See :func:`tfos_fast.channel.blocks.to_results`.

        Raises
        ------
        ValueError
            More results than rows without a result.
        FormError
            The feed is for training.
        """
        with self._lock:
            if self._train:
                raise FormError("results belong to inference; open the feed with train_mode=False")
            waiting = sum(rows for _, rows in self._origin)
            if len(results) > waiting:
                raise ValueError(f"{len(results)} results for {waiting} rows that have none yet; give one result per row")
            at = 0
            while at < len(results):
                stream, rows = self._origin.popleft()
                used = min(rows, len(results) - at)
                if used < rows:
                    self._origin.appendleft((stream, rows - used))
                self._results.add(stream, results[at : at + used])
                at += used

    # ---- end -----------------------------------------------------------------------------------------------------------------

    def terminate(self) -> None:
        """Want no more rows: writers end quickly, what is queued is dropped. A thread that waits for rows gets the end."""
        self._leaving = True
        with self._lock:
            if not self._terminated:
                self._terminated = True
                self._results.flush()
                self._send_done()
                self._conn.send(m.Terminate())
                queued = [item.slot for item in self._inbox if isinstance(item, m.Deliver)]
                self._forget()
                self._send_done()
                self._conn.send(m.Done([], queued))

    def close(self) -> None:
        """Leave the channel. Arrays handed out stay valid and unchanged: the mapping lives as long as they do.

        The feed ends with its reader: writers are told as by ``terminate``, and nothing that this reader had is overwritten.

        Raises
        ------
        FormError
            Inference: rows were handed out and have no result. It is left all the same.
        """
        self._close(flush=True)
        self._check_answered()

    def abandon(self) -> None:
        """Stop reading because the program has failed. Unlike ``close`` this is no orderly end of the feed: writers get an error
        when this process ends. Does not wait for a thread that reads.
        """
        self._leaving = True
        self._conn.abandon()

    def _close(self, *, flush: bool) -> None:
        self._leaving = True
        with self._lock:
            try:
                if flush and self._conn.failure is None:
                    self._results.flush()
                    self._send_done()
            finally:
                self._forget()
                if self.on_close is not None:
                    self.on_close()
                if self._aside is not None:
                    self._aside.close()
                self._conn.close()

    def _check_answered(self) -> None:
        missing = sum(rows for _, rows in self._origin)
        self._origin.clear()
        if missing and not self._terminated:
            raise FormError(f"{missing} rows of an inference were read and got no result; give batch_results() one for each row")

    def _forget(self) -> None:
        self._inbox.clear()
        self._keeper.clear()
        self._rows.clear()
        self._current = None
        self._assembler.clear()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self._close(flush=kind is None)  # after an error, waiting for feeders to take results would only hide it
        if kind is None:
            self._check_answered()

    # ---- messages ------------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._leaving:
            self._conn.check()  # closed, or only terminated

    def _declare(self, form: m.Form) -> None:
        if self._form is not None:
            if self._form.mode != form.mode:
                raise FormError(
                    f"this feed is open in {self._form.mode} mode; next_batch() and batches()/tensors()/dataset() do not mix"
                )
            return
        self._conn.send(m.OpenReader(form, self._train))
        answer = self._conn.ask(m.FormSet, "the broker to take the form")
        self._quota, self.trail.keep = answer.quota, answer.recovers
        self._told_at_once = max(1, min(_TOLD_AT_ONCE, self._quota // 8))
        self._form = form
        self.spec = form.spec

    def _handle(self, message: Any) -> None:
        if isinstance(message, m.Granted):
            self._results.granted(message.slots)
        elif isinstance(message, m.Refused):
            self._conn.failure = to_exception(message)
        elif isinstance(message, m.Steps):
            if self.gate is not None:
                self.gate.agree(message.epoch, message.steps, message.end)
        else:
            if isinstance(message, m.Deliver) and message.schema is not None:
                self._schemas[message.schema_id] = message.schema
            if self._terminated:
                if isinstance(message, m.Deliver):
                    self._conn.send(m.Done([], [message.slot]))
                return
            self._pace(message)
            self._inbox.append(message)

    def _pace(self, message: Any) -> None:
        if isinstance(message, m.Deliver):
            now = time.monotonic()
            self._interval = now - self._delivered if self._delivered else 0.0
            self._delivered = now
        elif isinstance(message, m.EpochEnd):
            self._epoch += 1
            self._delivered = self._interval = 0.0

    def _patience(self) -> int:
        """Milliseconds without a slot after which writers are asked for what they have.

        Twice what lay between the last two slots: a writer in full swing, which the reader outruns, is to fill its slots.
        """
        return max(STARVE_AFTER_MS, min(_PATIENCE_MS, int(2000 * self._interval)))

    def _next_item(self, *, wait: bool) -> Any:
        while True:
            if self._keeper.ahead is not None:
                return self._keeper.next()
            item = self._next_message(wait=wait)
            if isinstance(item, m.Keep | m.Replay):
                self._obey(item)
                continue
            if isinstance(item, m.StreamEnd):
                self._keeper.end_lane(item.stream)
                self._stream_ended = True
            if isinstance(item, m.FeedEnd):
                if item.kind:
                    self._conn.failure = to_exception(m.Failed(item.kind, item.text))
                    raise self._conn.failure
                self._feed_ended = True
            return item

    def _next_message(self, *, wait: bool) -> Any:
        if not self._inbox:
            self._conn.pump()
        if not self._inbox and wait and not self._feed_ended:
            self._results.flush()
            self._collect()
            self._tell_replayed()
            if self._done_is_due():  # a reader that starves sends it anyway
                self._send_done()
            self._conn.wait(
                lambda: True if self._inbox or self._leaving else None,
                "rows (a feed, or the end of the feed)",
                starve=self._starve,
                starve_ms=self._patience(),
            )
        if not self._inbox:
            return m.FeedEnd() if self._feed_ended else None
        item = self._inbox.popleft()
        self._note_open(item)
        return item

    def _note_open(self, item: Any) -> None:
        """A writer that has ended its partition waits for results; when all do, nobody will fill up a batch."""
        if isinstance(item, m.StreamEnd):
            self._all_ended = not self._train and item.open == 0
        elif isinstance(item, m.Deliver):
            self._all_ended = False

    def _drain_marks(self) -> None:
        """Take marks at the head of the inbox, so that ``ended`` can be known without reading a row."""
        while isinstance(self._keeper.ahead, m.StreamEnd):
            self._assembler.end_stream(self._keeper.ahead.stream)
            self._keeper.next()
        while self._inbox and self._keeper.ahead is None and not isinstance(self._inbox[0], m.Deliver | m.Replay):
            item = self._inbox[0]
            if (
                isinstance(item, m.Settle)
                or (isinstance(item, m.EpochEnd) and self._epoch_ends)
                or (isinstance(item, m.FeedEnd) and item.kind)
            ):
                return
            self._inbox.popleft()
            self._note_open(item)
            if isinstance(item, m.StreamEnd):
                self._keeper.end_lane(item.stream)
                self._assembler.end_stream(item.stream)
                self._stream_ended = True
            elif isinstance(item, m.Keep):
                self._obey(item)
            elif isinstance(item, m.EpochEnd):
                self.trail.end_epoch()
            elif isinstance(item, m.FeedEnd):
                self._feed_ended = True

    def _obey(self, order: m.Keep | m.Replay) -> None:
        if isinstance(order, m.Keep):
            self._failing(lambda: self._keeper.begin(order))
        else:
            self._keeper.replay(order.seed, self._form.batch if self._form else 0)

    def _failing(self, keep: Callable[[], None]) -> None:
        """What cannot be kept is missing in every later epoch: no row is handed out any more."""
        try:
            keep()
        except (TfosError, OSError, ValueError) as error:
            self._conn.failure = error if isinstance(error, TfosError) else ChannelError(f"rows could not be kept: {error!r}")
            raise self._conn.failure from error

    def _starve(self) -> None:
        self._results.flush()
        self._send_done()
        self._conn.send(m.Starving(self._epoch, self._epoch_ends))

    def _lease(self, message: m.Deliver) -> Any:
        self._leased.add(message.slot)
        return self._conn.segment.lease(message.slot, self._released)

    def _finish(self, slot: int | Piece) -> None:
        if isinstance(slot, Piece):
            self._keeper.finish(slot.rows)
        else:
            self._taken.append(slot)  # told with the next Done: one message for a slot, not two

    def _done_is_due(self) -> bool:
        """Whether slots that were taken or are free again must be told of now: one message for several, while slots abound."""
        if self._stream_ended:  # its writer waits for the last slot to be taken
            return True
        if not (self._taken or self._ended or self._released.pending):
            return False
        if len(self._taken) >= self._told_at_once or len(self._ended) >= self._told_at_once:
            return True
        return len(self._leased) > self._quota // 2 or time.monotonic() - self._told > _TELL_S

    def _collect(self) -> None:
        """Note the leases that have ended."""
        ended = self._released.drain()
        if ended:
            self._leased.difference_update(ended)
            self._ended.extend(ended)

    def _tell_replayed(self) -> None:
        rows = self._keeper.told()
        if rows:
            self._conn.send(m.Replayed(rows))

    def _send_done(self) -> None:
        self._collect()
        self._tell_replayed()
        if self._ended or self._taken:
            taken, self._taken = self._taken, []
            ended, self._ended = self._ended, []
            self._conn.send(m.Done(taken, ended))
            self._told = time.monotonic()
        self._stream_ended = False

    def _pause(self, seconds: float) -> None:
        """Handle messages for up to so long; writers are asked for what they have when nothing comes at once."""
        have = len(self._inbox)
        self._results.flush()
        self._send_done()
        # Results may have waited for a slot, and what came meanwhile lies in the inbox: no other message need follow it.
        if len(self._inbox) > have or self._conn.pump(max(1, min(STARVE_AFTER_MS, int(seconds * 1000)))):
            return
        self._starve()
        if len(self._inbox) == have:
            self._conn.pump(max(1, int(seconds * 1000) - STARVE_AFTER_MS))
