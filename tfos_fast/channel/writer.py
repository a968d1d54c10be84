"""The writer: packs rows or Arrow batches of a partition into granted slots and publishes them.

It packs nothing until the broker has told it the form of the data (see :class:`~tfos_fast.channel.messages.Form`), and waits for a
slot when none is free: that wait is the backpressure.
"""

from __future__ import annotations

import functools
import mmap
import pickle
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tfos_fast._pack import END, FULL, MISFIT, RowPacker, move_rows
from tfos_fast.channel import messages as m
from tfos_fast.channel.attach import connect
from tfos_fast.channel.connection import to_exception
from tfos_fast.channel.infer import infer
from tfos_fast.channel.lattice import join
from tfos_fast.channel.layout import Layout, has_heap, plan
from tfos_fast.channel.proof import Proof, Prover, mark
from tfos_fast.channel.remote import RemoteAddress
from tfos_fast.channel.results import Decode, ResultReader, result_rows
from tfos_fast.channel.schema import Schema, describe
from tfos_fast.channel.sources import PickledRows, Rows
from tfos_fast.channel.spans import OPEN
from tfos_fast.channel.structs import flatten, has_structs
from tfos_fast.channel.table import INPUT
from tfos_fast.errors import ChannelClosed, NonDeterministicPartition, RowTooLarge, SchemaMismatch, StallTimeout, Yielded

Source = Rows | PickledRows

# How long packing goes on before messages are looked at: short enough to serve a starving reader, long enough to cost nothing.
_TICK_S = 0.01
_HOLD_S = 0.002  # slots that fill within so long are told of together
_NO_SLOT = -1  # the scratch memory


class Writer:
    """One writer of a channel; a process may have several. Not for use by two threads at once.

    Made by :meth:`Channel.writer() <tfos_fast.channel.Channel.writer>`. It is a context manager.

    Parameters
    ----------
    address : str or RemoteAddress
    stall_timeout : float
        Seconds without movement after which a wait raises StallTimeout.

    Attributes
    ----------
    terminated : bool
        The reader wants no more rows; what is written from now on is dropped.
    stop : int
        Only rows before this number of the partition are wanted.
    patience : float or None
        Seconds to wait for a slot before the partition is left with :class:`~tfos_fast.errors.Yielded`.
    """

    def __init__(self, address: str | RemoteAddress, *, stall_timeout: float = 600.0) -> None:
        self.terminated = False
        self.stop = OPEN
        self.patience: float | None = None
        self._granted: deque[int] = deque()
        self._wanted = False
        self._flush = False
        self._yield = False
        self._stream: int | None = None
        self._key = ""
        self._form = m.Form("columns")
        self._inferred: Schema | None = None  # what our rows need, before the feed's spec and the other writers' needs
        self._schema: Schema | None = None  # what the feed agreed on
        self._schema_id = -1
        self._packer: RowPacker | None = None
        self._flat: bool | None = None  # rows hold structs, whose fields become columns; None: no row was seen
        self._slot: int | None = None
        self._window: Any = None
        self._layout: Layout | None = None
        self._arrow_rows = 0  # rows in the open slot that write_batch put there
        self._arrow_heap = 0
        self._heap_per_row = 64.0
        self._rows = 0  # rows of this partition in published slots, skipped ones included
        self._untaken: set[int] = set()
        self._proof = Proof()  # of the rows that an earlier attempt has delivered
        self._prover = Prover()
        self._exchange = False
        self._scratch: memoryview | None = None  # memory of our own in place of slots, while these rows are compared
        self._compared = Proof()
        self._filled = 0.0  # when the last slot was full
        self._blocked = 0.0  # seconds that it waited for slots in this partition
        self._conn = connect(address, "writer", self._handle, stall_timeout=stall_timeout)
        self._results = ResultReader(self._conn.segment)

    @property
    def rows(self) -> int:
        """Rows of the open partition that are written, those that were left out included."""
        return self._position()

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot."""
        return self._conn.segment.slot_bytes

    # ---- public --------------------------------------------------------------------------------------------------------------

    def open_partition(self, key: str | None = None, attempt: int = 0, *, exchange: bool = False) -> int:
        """Begin a partition. Waits until a reader has declared the form of the data.

        Parameters
        ----------
        key : str, optional
            Names the partition for exactly-once delivery: a newer ``attempt`` at the same key shuts older ones out.
        attempt : int
        exchange : bool
            Results are wanted back.

        Returns
        -------
        int
            Rows of this partition that were delivered before; leave them out.
        """
        if self._stream is not None:
            raise ChannelClosed("end the open partition first")
        self._key = key or secrets.token_hex(8)
        self._conn.send(m.OpenPartition(self._key, attempt, exchange))
        opened = self._conn.ask(m.Opened, "a reader to declare the form of the data (batches, tensors, next_batch)", timeout=None)
        # What was granted before this answer, the broker took back when the partition before was closed.
        self._granted.clear()
        self._wanted = False
        self._stream = opened.stream
        self._rows = opened.skip
        self._proof, self._exchange = opened.proof, exchange
        self.stop = opened.stop
        if opened.form != self._form:
            self._form = opened.form
            self._forget_schema()
        return opened.skip

    def compare_rows(self, rows: Iterable[Any]) -> None:
        """Take the rows that ``open_partition`` said to leave out, and compare them with what was delivered.

        A few values of a few rows are compared, the first ones more closely; none where the columns of the feed have changed since.

        Raises
        ------
        NonDeterministicPartition
            They differ, or there are fewer.
        """
        self._compare(self._pack(Rows(rows)))

    def compare_batches(self, batches: Iterable[Any]) -> None:
        """As ``compare_rows``, for record batches."""
        self._compare(step for batch in batches for step in self._copy_arrow(batch))

    def _compare(self, steps: Iterator[None]) -> None:
        skip, self._rows, self._compared = self._rows, 0, Proof()
        self._scratch = memoryview(mmap.mmap(-1, self._conn.segment.slot_bytes))
        try:
            for _ in steps:
                pass
            self._publish(whole=True)
        finally:
            self._unbind()
            self._scratch = None
        seen, self._rows = self._rows, skip
        if self.terminated:
            return
        if seen < skip:
            found = f"has {seen} rows now"
        elif self._compared.tells(self._proof) and self._compared != self._proof:
            found = "now begins with other rows"
        else:
            return
        raise NonDeterministicPartition(
            f"partition {self._key} {found}, and {skip} rows of it were delivered by an earlier attempt: it must come out the "
            "same when it is computed again. Cache or checkpoint the data, give random numbers a seed, sort before what depends on "
            "an order; or let rows come twice with feed(exactly_once=False)"
        )

    def write_rows(self, rows: Iterable[Any]) -> int:
        """Pack rows into shared memory. Every value is copied once.

        Parameters
        ----------
        rows : iterable
            Tuples, lists, dicts, pyspark Rows or bare values.

        Returns
        -------
        int
            How many rows were taken from ``rows``.

        Raises
        ------
        SchemaMismatch
            A row does not fit the columns which the reader has begun to read, or the spec.
        RowTooLarge
            A row does not fit into a slot.
        ReaderDied, BrokerDied, NodeFailed, Fenced, StallTimeout
        """
        return self._write(Rows(rows))

    def write_pickled(self, batches: Iterable[bytes], loads: Callable[[bytes], list[Any]] = pickle.loads, skip: int = 0) -> int:
        """Pack rows from pickled lists, as Spark stores them. What can be read in the stream is never made a Python object.

        The outcome is that of ``write_rows`` with the unpickled rows, in every detail.

        Parameters
        ----------
        batches : iterable of bytes
            Each a pickled list of rows.
        loads : callable
            Unpickles a batch in which something else than numbers, text, bytes, arrays and containers of these is found.
        skip : int
            Leave out so many rows at the beginning.

        Returns
        -------
        int
            How many rows were taken.

        Raises
        ------
        As ``write_rows``.
        """
        return self._write(PickledRows(batches, loads, skip))

    def _write(self, source: Source) -> int:
        before = self._position()
        for _ in self._pack(source):
            self._wait_slot()
        return self._position() - before

    def write_batch(self, batch: Any) -> int:
        """Copy a ``pyarrow.RecordBatch`` into shared memory, buffer by buffer.

        Returns
        -------
        int
            Rows in the batch.

        Raises
        ------
        As ``write_rows``.
        """
        for _ in self._copy_arrow(batch):
            self._wait_slot()
        return batch.num_rows

    def end_partition(self) -> None:
        """Publish what is left of the partition and close it."""
        if self._stream is None:
            return
        self._publish(whole=True)
        self._unbind()
        self._conn.send(m.ClosePartition(self._stream, self._rows, self._blocked))
        self._blocked = 0.0
        self._granted.clear()  # with this message they are free
        self._untaken.add(self._stream)
        self._stream = None

    def exchange(
        self,
        rows: Iterable[Any],
        key: str | None = None,
        attempt: int = 0,
        *,
        arrow: bool = False,
        loads: Callable[[bytes], list[Any]] | None = None,
        decode: Decode = result_rows,
    ) -> Iterator[Any]:
        """Write a whole partition and yield the reader's results, in the order of the rows, one for one.

        Parameters
        ----------
        rows : iterable
            Rows, with ``arrow`` record batches, with ``loads`` pickled lists of rows.
        key, attempt
            As for ``open_partition``.
        arrow : bool
            ``rows`` are ``pyarrow.RecordBatch`` objects.
        loads : callable, optional
            As for ``write_pickled``.
        decode : callable, optional
            What becomes of a slot of results; default: a list of them.

        Yields
        ------
        list, or what ``decode`` gives
            Some results; Python objects equal to what the reader gave to ``write_results``.
        """
        self.open_partition(key, attempt, exchange=True)
        begin, received = self._rows, 0
        results = self._results
        results.stream, results.decode = self._stream, decode
        source = Rows(rows) if loads is None else PickledRows(rows, loads)
        try:
            for _ in (step for batch in rows for step in self._copy_arrow(batch)) if arrow else self._pack(source):
                self._conn.wait(
                    lambda: True if self._granted or results.ready or self.terminated else None, "a free slot or results"
                )
                while results.ready:
                    received += len(results.ready[0])
                    yield results.ready.popleft()
            self.end_partition()
            sent = self._rows - begin
            while received < sent:
                if not results.ready:
                    self._conn.wait(
                        lambda: True if results.ready or self.terminated else None,
                        f"results of {sent - received} rows of partition {self._key} (one for each row, by batch_results)",
                    )
                if not results.ready:
                    raise ChannelClosed(f"the reader ended with {received} results for {sent} rows of partition {self._key}")
                received += len(results.ready[0])
                yield results.ready.popleft()
        finally:
            results.stop()

    def close(self, *, wait: bool = False) -> None:
        """Leave the channel.

        Parameters
        ----------
        wait : bool
            First wait until the reader's process has taken every row of the ended partitions.
        """
        try:
            if wait and not self.terminated:
                self._conn.wait(
                    lambda: True if not self._untaken or self.terminated or self._yield else None,
                    f"the reader to take the last rows of partition {self._key}",
                )
        finally:
            self._unbind()
            self._conn.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.end_partition()
        self.close()

    # ---- packing -------------------------------------------------------------------------------------------------------------

    def _pack(self, source: Source) -> Iterator[None]:
        """Pack until the rows end; yields whenever a slot is needed and none is granted."""
        if self._stream is None:
            self.open_partition()
        if self._arrow_rows:
            self._publish(whole=True)
        if self._packer is None:
            self._unbind()
            try:
                first = source.peek()
            except StopIteration:
                return
            if self._flat is None:
                self._flat = not self._form.exact and has_structs(first)
            if self._flat:
                source = Rows(flatten(source.objects()))
                first = source.peek()
            self._agree(infer(first, exact=self._form.exact), first)
            self._new_packer()
        elif self._flat:
            source = Rows(flatten(source.objects()))
        while not self.terminated:
            if not self._has_slot():
                yield
                continue
            packer = self._packer
            assert packer is not None
            try:
                stopped = source.pack(packer, _TICK_S)
                if stopped == FULL:
                    self._publish()
                elif stopped == MISFIT:
                    self._widen()
            except (RowTooLarge, SchemaMismatch):
                if packer.has_pending:
                    packer.take_pending()  # who goes on after this error leaves that row out
                raise
            self._conn.glance()
            if self._flush:
                self._publish()
            if stopped == END:
                return
            if self._results.ready:
                yield  # an exchange hands its results on at once: they must not pile up here

    def _new_packer(self) -> None:
        assert self._schema is not None
        assert self._inferred is not None
        # The columns are the feed's; how a row holds them (tuple, Row, dict) is this writer's own matter.
        mine = Schema(self._inferred.structure, self._schema.columns)
        self._packer = RowPacker(mine, exact=self._form.exact, cast=bool(self._form.spec))

    def _widen(self) -> None:
        assert self._packer is not None
        assert self._inferred is not None
        row, column = self._packer.pending, self._packer.misfit
        before = self._schema
        try:
            wider = join(self._inferred, infer(row, exact=self._form.exact), exact=self._form.exact)
        except SchemaMismatch as error:
            raise self._located(error) from None
        self._publish(whole=True)  # nothing of the older schema may stay behind
        self._agree(wider, row)
        if self._schema == before:
            assert before is not None
            name = before.columns[column].name if column >= 0 else "?"
            expected = describe(before.columns[column]) if column >= 0 else before.structure
            raise self._located(SchemaMismatch(f"column {name!r}: expected {expected}, found a value that does not fit"), row)
        self._unbind()
        self._new_packer()
        self._packer.set_pending(row)

    def _agree(self, wanted: Schema, *cause: Any) -> None:
        """Propose columns to the feed; ``cause``: the row that needs them."""
        try:
            self._propose(wanted)
        except SchemaMismatch as error:
            raise self._located(error, *cause) from None

    def _propose(self, wanted: Schema) -> None:
        self._conn.send(m.Propose(wanted))
        agreed = self._conn.ask(m.Agreed, "the feed's schema")
        self._inferred = wanted
        if agreed.schema != self._schema:
            self._schema, self._schema_id = agreed.schema, agreed.schema_id

    def _located(self, error: SchemaMismatch, *cause: Any, ahead: int = 0) -> SchemaMismatch:
        row = f"; the row is {_short(cause[0])}" if cause else ""
        return SchemaMismatch(f"partition {self._key}, row {self._position() + ahead}: {error}{row}")

    def _position(self) -> int:
        return self._rows + (self._packer.rows if self._packer is not None and self._slot is not None else 0) + self._arrow_rows

    def _forget_schema(self) -> None:
        self._unbind()
        self._packer, self._schema, self._inferred, self._flat = None, None, None, None

    # ---- Arrow ---------------------------------------------------------------------------------------------------------------

    def _copy_arrow(self, batch: Any) -> Iterator[None]:
        from tfos_fast.channel.arrow import from_arrow, is_fitting, pack_batch
        from tfos_fast.channel.arrow_types import flatten_batch

        if self._stream is None:
            self.open_partition()
        if batch.num_rows == 0:
            return
        if not self._form.exact:
            batch = flatten_batch(batch)
        if self._packer is not None:
            self._publish(whole=True)
            self._forget_schema()
        wanted = found = from_arrow(batch.schema, batch, exact=self._form.exact)
        if wanted != self._inferred:
            if self._inferred is not None:
                try:
                    wanted = join(self._inferred, wanted, exact=self._form.exact)
                except SchemaMismatch as error:
                    raise self._located(error) from None
            if wanted != self._inferred:
                self._publish(whole=True)
                self._unbind()
                before, exact = self._inferred, self._form.exact
                try:
                    self._propose(wanted)
                except SchemaMismatch as error:
                    if before is None:  # the types of the columns alone
                        raise self._located(error) from None
                    known: Schema = before
                    same = lambda part: join(known, from_arrow(part.schema, part, exact=exact), exact=exact) == known  # noqa: E731
                    raise self._located_in(error, batch, 0, same) from None
        start = 0
        while start < batch.num_rows and not self.terminated:
            if not self._has_slot():
                yield
                continue
            assert self._layout is not None
            into = (self._layout, self._window, self._arrow_rows, self._arrow_heap)
            try:
                done, self._arrow_heap = pack_batch(*into, batch, start, exact=self._form.exact, found=found)
            except SchemaMismatch as error:
                fits = functools.partial(is_fitting, self._layout.schema, exact=self._form.exact)
                raise self._located_in(error, batch, start, fits) from None
            if done == 0 and self._arrow_rows == 0:
                self._layout = self._layout.roomier()
                continue
            self._arrow_rows += done
            start += done
            self._conn.glance()
            if start < batch.num_rows or self._flush or self._arrow_rows == self._layout.capacity:
                self._publish()
            if self._results.ready:
                yield

    def _located_in(self, error: SchemaMismatch, batch: Any, start: int, fits: Callable[[Any], bool]) -> SchemaMismatch:
        """The error with the first row, from ``start`` on, that brings it; ``fits`` says whether some rows do not."""
        from tfos_fast.channel.arrow import first_misfit

        ahead = first_misfit(batch, start, fits)
        return self._located(error, batch.slice(start + ahead, 1).to_pylist()[0], ahead=ahead)

    # ---- slots ---------------------------------------------------------------------------------------------------------------

    def _want(self) -> None:
        if not self._wanted:
            self._conn.send(m.Want(INPUT))
            self._wanted = True

    def _wait_slot(self) -> None:
        # Nothing is packed and unpublished here: a slot is asked for only when none is open.
        ready = lambda: True if self._granted or self.terminated or self._yield else None  # noqa: E731
        begin = time.monotonic()
        try:
            self._conn.wait(ready, "a free slot", timeout=self.patience)
        except StallTimeout:
            if self.patience is None:
                raise
            self._yield = True
        finally:
            self._blocked += time.monotonic() - begin
        if self._yield and not self._granted and not self.terminated:
            raise Yielded(f"partition {self._key} is left at row {self._rows}: another feed needs the place of this task")

    def _has_slot(self) -> bool:
        """Whether a slot is open for packing; opens a granted one, or asks for one and does not wait."""
        if self._slot is not None:
            return True
        if self._scratch is not None:
            self._bind()
            return True
        if not self._granted:
            self._want()
            self._conn.pump()
        if self._granted:
            self._bind()
        return self._slot is not None

    def _bind(self) -> None:
        assert self._schema is not None
        schema = self._schema if self._packer is None else self._packer.schema
        if self._layout is None or self._layout.schema != schema or has_heap(schema):  # before a slot is taken: it may refuse
            heap = self._heap_per_row if has_heap(schema) else 0.0
            batch = 1 if self._form.exact else self._form.batch
            self._layout = plan(schema, self._conn.segment.slot_bytes, batch=batch, heap_per_row=heap)
        if self._scratch is not None:
            self._slot, self._window = _NO_SLOT, self._scratch
        else:
            self._slot = self._granted.popleft()
            if not self._granted:
                self._want()  # the next one is on its way while this one fills
            self._window = self._conn.segment.window(self._slot)
        self._arrow_rows = self._arrow_heap = 0
        if self._packer is not None:
            self._packer.bind(self._window, self._layout, 0)

    def _unbind(self) -> None:
        if self._packer is not None:
            self._packer.unbind()
        self._window, self._arrow_rows = None, 0
        if self._slot is not None:
            if self._slot != _NO_SLOT:
                self._granted.appendleft(self._slot)
            self._slot = None

    def _publish(self, *, whole: bool = False) -> None:
        """Publish the open slot: whole batches if there is one, or with ``whole`` all of it."""
        if self._slot is None:
            return
        assert self._layout is not None
        assert self._stream is not None
        rows = self._arrow_rows or (self._packer.rows if self._packer is not None else 0)
        if rows == 0 or self.terminated:
            return
        hold = self._may_hold() and not whole
        if self._scratch is None:
            self._flush = False  # only now: a reader that starved before the first row came still waits for it
        heap = self._arrow_heap if self._arrow_rows else (self._packer.heap_used if self._packer is not None else 0)
        self._heap_per_row = max(1.0, 1.05 * heap / rows)
        # The packer may have laid an empty slot out anew, with more heap, for a row larger than those before.
        filled = self._layout if self._arrow_rows or self._packer is None else self._packer.layout
        assert filled is not None
        slot, window, batch = self._slot, self._window, self._form.batch
        tail = rows % batch if batch and rows > batch and not whole and self._scratch is None else 0
        if tail and not self._granted:
            tail = 0  # no slot to move it to; the reader merges
        if self._packer is not None:
            self._packer.unbind()
        self._window, self._slot, self._arrow_rows = None, None, 0
        proof = 0 if self._exchange else self._prover.total(filled, window, self._rows, rows - tail)
        if self._scratch is not None:
            self._compared = self._compared.extended(proof, mark(filled.schema.columns))
            self._rows += rows
            return
        if tail:
            self._bind_tail(filled, window, rows - tail, rows)
        want = not whole and not self._wanted
        self._wanted = self._wanted or want
        used = filled.heap * rows // filled.capacity + heap
        message = m.Publish(slot, self._stream, rows - tail, filled.capacity, self._schema_id, want, used, proof)
        (self._conn.hold if hold else self._conn.send)(message)
        self._rows += rows - tail

    def _may_hold(self) -> bool:
        """Whether the open slot may be told of with the next one: each message wakes the broker.

        Only while slots fill within moments, so that the next one comes soon, and two more are in hand: the broker is to grant
        others before the last one is full.
        """
        last, self._filled = self._filled, time.monotonic()
        return self._filled - last < _HOLD_S and len(self._granted) >= 2 and not (self._flush or self._exchange)

    def _bind_tail(self, filled: Layout, window: Any, start: int, stop: int) -> None:
        """Move the rows behind the last whole batch to the beginning of the next slot, so that its batches stay aligned."""
        arrow = self._packer is None
        self._slot = self._granted.popleft()
        if not self._granted:
            self._want()
        self._window = self._conn.segment.window(self._slot)
        heap = move_rows(filled, window, start, stop, filled, self._window)
        self._layout = filled
        if arrow:
            self._arrow_rows, self._arrow_heap = stop - start, heap
        else:
            assert self._packer is not None
            self._packer.bind(self._window, filled, stop - start, heap)

    # ---- messages ------------------------------------------------------------------------------------------------------------

    def _handle(self, message: Any) -> None:
        if isinstance(message, m.Granted):
            self._granted.extend(message.slots)
            self._wanted = False
        elif isinstance(message, m.Flush):
            self._flush = True
        elif isinstance(message, m.Yield):
            self._yield = message.on
        elif isinstance(message, m.Deliver):
            self._results.take(message)
            self._conn.send(m.Done([], [message.slot]))
        elif isinstance(message, m.StreamTaken):
            self._untaken.discard(message.stream)
        elif isinstance(message, m.Terminated):
            self.terminated = True
        elif isinstance(message, m.Shut):
            if message.stream == self._stream or message.stream in self._untaken:
                self._conn.failure = to_exception(m.Refused(message.kind, message.text))
        elif isinstance(message, m.Refused):
            self._conn.failure = to_exception(message)


def _short(row: Any) -> str:
    text = repr(row)
    return text if len(text) <= 200 else text[:200] + "..."
