"""The writer: opens partitions, has their rows or Arrow batches packed into granted slots, and ends them.

It packs nothing until the broker has told it the form of the data (see :class:`~tfos_fast.channel.protocol.messages.Form`), and
waits for a slot when none is free: that wait is the backpressure.
"""

from __future__ import annotations

import pickle
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from tfos_fast.channel.codec.row_sources import PickledRows, Rows
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.failures import to_exception
from tfos_fast.channel.protocol.row_spans import OPEN
from tfos_fast.channel.remote.attach import connect
from tfos_fast.channel.remote.client import RemoteAddress
from tfos_fast.channel.writer.batches import BatchWriter
from tfos_fast.channel.writer.credits import Credits
from tfos_fast.channel.writer.partition import Partition
from tfos_fast.channel.writer.proposals import Proposals
from tfos_fast.channel.writer.results import Decode, ResultReader, result_rows
from tfos_fast.channel.writer.rows import RowWriter, Source
from tfos_fast.channel.writer.slot_writer import SlotWriter
from tfos_fast.errors import ChannelClosed, StallTimeout, Yielded


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
    stop : int
        Only rows before this number of the partition are wanted.
    patience : float or None
        Seconds to wait for a slot before the partition is left with :class:`~tfos_fast.errors.Yielded`.
    """

    def __init__(self, address: str | RemoteAddress, *, stall_timeout: float = 600.0) -> None:
        self.stop = OPEN
        self.patience: float | None = None
        self._credits = Credits()
        self._partition = Partition()
        self._untaken: set[int] = set()  # streams of ended partitions, some of whose rows the reader has not taken
        self._blocked = 0.0  # seconds that it waited for slots in this partition
        self._conn = connect(address, "writer", self._handle, stall_timeout=stall_timeout)
        self._results = ResultReader(self._conn.segment)
        self._columns = Proposals(self._conn)
        self._slots = SlotWriter(self._conn, self._credits, self._partition, self._columns)
        self._row_writer = RowWriter(self._slots, self._columns, self._results)
        self._batch_writer = BatchWriter(self._slots, self._columns, self._results)

    @property
    def terminated(self) -> bool:
        """The reader wants no more rows; what is written from now on is dropped."""
        return self._credits.terminated

    @property
    def rows(self) -> int:
        """Rows of the open partition that are written, those that were left out included."""
        return self._slots.position

    @property
    def dropped(self) -> bool:
        """The reader wants no more rows, and some of the open partition, or the one ended last, were packed and not published."""
        return self._slots.dropped

    def has_more(self) -> bool:
        """Whether the reader's word that it wants no more has cut short what was written last. Takes a row from its source."""
        return self.terminated and (self._batch_writer.has_more or self._row_writer.has_more())

    @property
    def entered(self) -> dict[str, Any]:
        """The broker's counters when this writer attached, as ``Channel.status`` gives them; it is among the writers."""
        return msgspec.structs.asdict(self._conn.entered)

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot."""
        size: int = self._conn.segment.slot_bytes
        return size

    # ---- partitions ----------------------------------------------------------------------------------------------------------

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
        partition = self._partition
        if partition.stream is not None:
            raise ChannelClosed("end the open partition first")
        partition.key = key or secrets.token_hex(8)
        self._conn.send(m.OpenPartition(partition.key, attempt, exchange, self._conn.stall_timeout))
        opened = self._conn.ask(m.Opened, "a reader to declare the form of the data (batches, tensors, next_batch)", timeout=None)
        # What was granted before this answer, the broker took back when the partition before was closed.
        self._credits.granted.clear()
        self._credits.wanted = False
        partition.stream, partition.rows = opened.stream, opened.skip
        self._slots.dropped = False
        partition.proof, partition.exchange = opened.proof, exchange
        self.stop = opened.stop
        if opened.form != self._columns.form:
            self._columns.form = opened.form
            self._slots.forget()
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
        self._compare(step for batch in batches for step in self._pack_batch(batch))

    def _compare(self, steps: Iterator[None]) -> None:
        partition = self._partition
        skip, partition.rows = partition.rows, 0
        with self._slots.comparing() as scratch:
            for _ in steps:
                pass
            self._slots.publish(whole=True)
        seen, partition.rows = partition.rows, skip
        if not self.terminated:
            partition.check(seen, scratch.proof)

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
        before = self.rows if self._partition.stream is not None else 0  # a partition that is opened by this begins anew
        for _ in self._pack(source):
            self._wait_slot()
        self._conn.flush()  # the next rows may be long in coming
        return self.rows - before

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
        return self.write_batches((batch,))

    def write_batches(self, batches: Iterable[Any]) -> int:
        """As ``write_batch``, for one after the other: for less, where they are as large as a slot or smaller.

        Returns
        -------
        int
            Rows in all of them.

        Raises
        ------
        As ``write_rows``.
        """
        rows = 0
        for batch in batches:
            for _ in self._pack_batch(batch):
                self._wait_slot()
            rows += batch.num_rows
        self._conn.flush()  # the next ones may be long in coming
        return rows

    def end_partition(self) -> None:
        """Publish what is left of the partition and close it."""
        partition = self._partition
        if partition.stream is None:
            return
        self._slots.publish(whole=True)
        self._slots.unbind()
        self._conn.send(m.ClosePartition(partition.stream, partition.rows, self._blocked))
        self._blocked = 0.0
        self._credits.granted.clear()  # with this message they are free
        self._untaken.add(partition.stream)
        partition.stream = None

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
        partition, results = self._partition, self._results
        begin, received = partition.rows, 0
        results.stream, results.decode = partition.stream, decode
        source = Rows(rows) if loads is None else PickledRows(rows, loads)
        try:
            for _ in (step for batch in rows for step in self._pack_batch(batch)) if arrow else self._pack(source):
                self._conn.wait(
                    lambda: True if self._credits.granted or results.ready or self.terminated else None, "a free slot or results"
                )
                while results.ready:
                    received += len(results.ready[0])
                    yield results.ready.popleft()
            self.end_partition()
            sent, cut = partition.rows - begin, self.dropped or self.has_more()
            while received < sent or cut:
                if not results.ready and not cut:
                    self._conn.wait(
                        lambda: True if results.ready or self.terminated else None,
                        f"results of {sent - received} rows of partition {partition.name} (one for each row, by batch_results)",
                    )
                if not results.ready:
                    raise ChannelClosed(
                        f"the reader ended before every row of partition {partition.name} had its result ({received} came back): "
                        "its program has returned or called terminate(). It has to go on until feed.should_stop()"
                    )
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
                    lambda: True if not self._untaken or self.terminated or self._credits.leave else None,
                    f"the reader to take the last rows of partition {self._partition.key}",
                )
        finally:
            self._slots.unbind()
            # That its last slot was taken is told for a partition of which the broker has all.
            self._conn.close(told=not self._untaken and self._partition.stream is None)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.end_partition()
        self.close()

    # ---- packing and waiting -------------------------------------------------------------------------------------------------

    def _pack(self, source: Source) -> Iterator[None]:
        self._open()
        yield from self._row_writer.pack(source)

    def _pack_batch(self, batch: Any) -> Iterator[None]:
        self._open()
        yield from self._batch_writer.pack(batch)

    def _open(self) -> None:
        if self._partition.stream is None:
            self.open_partition()

    def _wait_slot(self) -> None:
        # Nothing is packed and unpublished here: a slot is asked for only when none is open.
        credits = self._credits
        ready = lambda: True if credits.granted or credits.terminated or credits.leave else None  # noqa: E731
        begin = time.monotonic()
        try:
            self._conn.wait(ready, "a free slot", timeout=self.patience)
        except StallTimeout:
            if self.patience is None:
                raise
            credits.leave = True
        finally:
            self._blocked += time.monotonic() - begin
        if credits.leave and not credits.granted and not credits.terminated:
            at = f"partition {self._partition.key} is left at row {self._partition.rows}"
            raise Yielded(f"{at}: another feed needs the place of this task")

    def _handle(self, message: Any) -> None:
        if self._credits.hear(message):
            return
        if isinstance(message, m.Deliver):
            self._results.take(message)
            self._conn.send(m.Done([], [message.slot]))
        elif isinstance(message, m.StreamTaken):
            self._untaken.discard(message.stream)
        elif isinstance(message, m.Shut):
            if message.stream == self._partition.stream or message.stream in self._untaken:
                self._conn.failure = to_exception(m.Refused(message.kind, message.text))
        elif isinstance(message, m.Refused):
            self._conn.failure = to_exception(message)
