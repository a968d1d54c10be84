"""The reader: takes delivered slots and hands out rows, batches of arrays that alias the slots, and (for inference) takes results.

Messages are handled on the thread that calls; a lock makes calls from several threads (as tf.data makes them) take turns. Results
do not wait for their turn: see ``answers.py``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import Any

from tfos_fast.channel.epochs.replay import Keeper
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.failures import to_exception
from tfos_fast.channel.reader.acks import Acks
from tfos_fast.channel.reader.answers import Answering
from tfos_fast.channel.reader.batch import AnyBatch, Columns
from tfos_fast.channel.reader.checkpoint import Checkpoints
from tfos_fast.channel.reader.columns import ColumnReader, Spec
from tfos_fast.channel.reader.inbox import Inbox
from tfos_fast.channel.reader.lockstep import InStep
from tfos_fast.channel.reader.position import Trail
from tfos_fast.channel.reader.read_ahead import ReadAhead
from tfos_fast.channel.reader.results import ResultWriter
from tfos_fast.channel.reader.row_buffer import RowBuffer
from tfos_fast.channel.reader.rows import RowReader
from tfos_fast.channel.schema.columns import Schema
from tfos_fast.channel.schema.null_policies import null_policies
from tfos_fast.channel.schema.spec_entries import entries
from tfos_fast.channel.transport.local import LocalConnection
from tfos_fast.errors import FormError


class Reader(Answering, InStep):
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
    trail, ahead : Trail, ReadAhead
        How far the program has come, and which threads hold rows.
    on_close : callable, optional
        Called once, by ``close``.
    """

    def __init__(self, address: str, *, train: bool = True, stall_timeout: float = 86400.0) -> None:
        self._train = train
        self._lock = threading.RLock()
        self._form: m.Form | None = None
        self._terminated = self._over = False
        self.on_close: Callable[[], None] | None = None
        self.trail = Trail()
        self._rows = RowBuffer(origins=not train)
        self.ahead = ReadAhead()
        self._checkpoints = Checkpoints(address, self.trail, self._rows, train=train)
        self._keeper = Keeper()
        # None of these knows the reader: one that is dropped without close() must go at once, not with the garbage collector.
        self._conn = LocalConnection(address, "reader", self._handle, stall_timeout=stall_timeout)
        self._acks = Acks(self._conn, self._keeper)
        self._results = ResultWriter(self._conn)
        self._inbox = Inbox(self._conn, self._keeper, self._acks, self._results, train=train)
        self._row_reader = RowReader(self._inbox, self._acks, self._rows, self.trail, train=train)
        self._column_reader = ColumnReader(self._conn, self._inbox, self._acks, self.trail, train=train)
        self._assembler = self._column_reader.assembler  # at hand for next_batch

    # ---- state ---------------------------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether the feed has ended and every row was handed out (or the reader terminated it). Does not wait."""
        if self._rows.ready and not self._terminated:
            return False  # most often, for who asks before every row
        if self._over:
            return True
        if not self._lock.acquire(blocking=False):
            return self._terminated  # another thread waits for rows
        try:
            if self._terminated:
                return True
            if not self._inbox.feed_ended:
                self._conn.pump()
                self._drop(wait=False)
                self._take_marks()
            left = len(self._rows) or not self._rows.wants_slot or self._assembler.waiting_rows or not self._assembler.wants_slot
            self._over = self._inbox.feed_ended and not left
            return self._over
        finally:
            self._lock.release()
            if self._results.given:
                self._take_results()

    def may_stop(self) -> bool:
        """Whether the feed has ended and the calling thread has nothing more to wait for. Does not wait.

        Other than ``ended`` it considers rows that another thread holds, or that lie in a pipeline of tf.data.
        """
        return self.ended and (self._terminated or self.ahead.may_stop(self.trail.total))

    @property
    def summary(self) -> dict[str, int]:
        """Counts so far: batches ``aliased`` and ``copied``, and slots ``hoarded``: given back early, the reader kept too many."""
        return {"aliased": self._assembler.aliased, "copied": self._assembler.copied, "hoarded": self._column_reader.hoarded}

    @property
    def schema(self) -> Schema | None:
        """What column batches look like; None before the first rows came."""
        return self._column_reader.schema

    @property
    def spec(self) -> Spec:
        """What the program declared of the columns."""
        return self._column_reader.spec

    @property
    def train(self) -> bool:
        """Whether rows are for training: no results go back."""
        return self._train

    @property
    def segment(self) -> Any:
        """The mapped segment."""
        return self._conn.segment

    # ---- rows ----------------------------------------------------------------------------------------------------------------

    def next_rows(self, n: int, deadline: float | None = None) -> list[Any]:
        """The next ``n`` rows, equal to what was fed, Python types included. Values are copied.

        Waits for ``n`` rows, or until the deadline (of ``time.monotonic``). Fewer come at the feed's end, and in inference when
        every open partition has ended or nothing has come for a moment.
        """
        with self._lock:
            short = len(self._rows.ready) < n
            if short:
                self._check_open()
                if not self._terminated:
                    self._declare(m.Form("rows"))
                    self._row_reader.fill(n, deadline)
                self._acks.send()
            rows, origin = self._rows.take(n)
            if origin:
                self._results.owe(origin)
        if short and len(rows) < n and (self._train or not rows):
            self.ahead.learn()
        elif self.ahead.last != get_ident():
            self.ahead.note()
        if origin or not rows:
            if n < 1:  # looked at here, where it costs nothing
                raise ValueError(f"a batch needs at least one row, not {n}")
            if self._results.given:
                self._take_results()
        return rows

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
            Column name -> a dtype, or (dtype, shape of one row's value), where None is a length that differs from row to row.
        drop_remainder : bool
            Leave out the last short batch.

        Yields
        ------
        dict
            Column name -> array of shape ``(n, *shape)``; object arrays for strings, bytes and objects; a
            :class:`~tfos_fast.values.ragged.Ragged` for lists whose lengths differ.
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
        nulls: Any = None,
        tensors: bool = False,
        only: bool = False,
        positional: bool = False,
        wait: bool = True,
    ) -> Schema | None:
        """Declare column mode; the first declaration counts.

        Parameters
        ----------
        n, spec
            As for ``batches``.
        nulls : dict, MASK or a value, optional
            Column name, or ``"*"`` for all others -> what becomes of None: a number, text, byte string or ``tfos_fast.MASK``.
            What is no dict is meant for every column.
        tensors : bool
            Columns of Python objects are refused where rows bring them.
        only : bool
            Columns that ``spec`` does not name are left out: they are not packed.
        positional : bool
            ``spec`` was a tuple: rows with names are read by position, too.
        wait : bool
            Wait for the first rows.

        Returns
        -------
        Schema or None
            With ``wait`` that of the first rows; None when the feed ended before they came.

        Raises
        ------
        FormError
            The feed is open in row mode, or its first declaration left out columns that this one wants.
        """
        with self._lock:
            if self._terminated:
                return self.schema
            self._declare(m.Form("columns", n, entries(spec or {}), null_policies(nulls), tensors, only, positional))
            if wait and self.schema is None:
                self._column_reader.pin(n)
        self._take_results()
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
    ) -> AnyBatch | None:
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
        Batch, PlainBatch or None
            None at the end (see also ``ended``) or after the timeout.
        """
        if n < 1:
            raise ValueError(f"a batch needs at least one row, not {n}")
        try:
            with self._lock:
                inbox, acks = self._inbox, self._acks
                if epoch_ends:
                    inbox.epoch_ends = True
                if self._train and most == 1 and not (runs or inbox.leaving or self._conn.failure):
                    plain = self._assembler.inside(n)
                    if plain is not None:
                        self.trail.note(*plain.origin[0])
                        if (acks.taken or acks.released.pending) and acks.is_due():
                            acks.send()
                        return plain
                self._check_open()
                if self._conn.failure is not None:
                    self._conn.check()
                if self._terminated:
                    return None
                columns = self._column_reader
                if self._form is None or self._form.mode != "columns":
                    self._declare(m.Form("columns", n, entries(spec or {})))
                deadline = None if timeout is None else time.monotonic() + timeout
                if columns.schema is None and not columns.pin(n, deadline):
                    return columns.late(epoch_ends)
                batch = columns.next(n, epoch_ends, deadline, most, runs)
                if batch is not None:
                    if not self._train:
                        self._results.owe(batch.origin)
                    for part in batch.origin:
                        self.trail.note(*part)
                if batch is None:
                    if inbox.feed_ended:
                        self.ahead.learn()
                elif self.ahead.last != get_ident():
                    self.ahead.note(pipelines_only=epoch_ends)  # who reads epochs otherwise sees their end
                if self._keeper.untold or batch is None or acks.is_due():
                    acks.send()
                return batch
        finally:
            if self._results.given:
                self._take_results()

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
        self._checkpoints.commit(rows, epoch, ends=self._inbox.epoch_ends)

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
        return self._checkpoints.position(rows, epoch, ends=self._inbox.epoch_ends)

    # ---- end -----------------------------------------------------------------------------------------------------------------

    def terminate(self) -> None:
        """Want no more rows: writers end quickly, what is queued is dropped. A thread that waits for rows gets the end."""
        self._inbox.leaving = True
        with self._lock:
            if not self._terminated:
                self._terminated = True
                self._results.flush()
                self._acks.send()
                self._conn.send(m.Terminate())
                queued = [item.slot for item in self._inbox.items if isinstance(item, m.Deliver)]
                self._forget()
                self._acks.send()
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
        self._inbox.leaving = True
        self._conn.abandon()

    def _close(self, *, flush: bool) -> None:
        self._inbox.leaving = True
        with self._lock:
            try:
                if flush and self._conn.failure is None:
                    self._results.flush()
                    self._acks.send()
            finally:
                self._forget()
                if self.on_close is not None:
                    self.on_close()
                self._checkpoints.close()
                self._conn.close()

    def _forget(self) -> None:
        self._inbox.clear()
        self._keeper.clear()
        self._rows.clear()
        self._column_reader.clear()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self._close(flush=kind is None)  # after an error, waiting for feeders to take results would only hide it
        if kind is None:
            self._check_answered()

    # ---- messages ------------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._inbox.leaving:
            self._conn.check()  # closed, or only terminated

    def _declare(self, form: m.Form) -> None:
        if self._form is not None:
            if self._form.mode != form.mode:
                raise FormError(
                    f"this feed is open in {self._form.mode} mode; next_batch() and batches()/tensors()/dataset() do not mix"
                )
            if self._form.only:
                self._column_reader.want(form.spec if form.only else None)
            return
        self._conn.send(m.OpenReader(form, self._train))
        answer = self._conn.ask(m.FormSet, "the broker to take the form")
        self._acks.limit(answer.quota)
        self.trail.keep = answer.recovers
        self._form = form
        self._inbox.batch = form.batch
        self._column_reader.spec, self._column_reader.only, self._column_reader.positional = form.spec, form.only, form.positional

    def _handle(self, message: Any) -> None:
        if isinstance(message, m.Granted):
            self._results.granted(message.slots)
        elif isinstance(message, m.Refused):
            self._conn.failure = to_exception(message)
        elif isinstance(message, m.Steps):
            if self.gate is not None:
                self.gate.agree(message.epoch, message.steps, message.end)
        elif not self._terminated:
            self._inbox.put(message)
        elif isinstance(message, m.Deliver):
            self._conn.send(m.Done([], [message.slot]))

    def _take_marks(self) -> None:
        for mark in self._inbox.marks():
            if isinstance(mark, m.StreamEnd):
                self._assembler.end_stream(mark.stream)
            else:
                self.trail.end_epoch()
