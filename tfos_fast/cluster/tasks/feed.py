"""The code inside a Spark task that feeds its partition to a node."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tfos_fast.channel import Channel
from tfos_fast.channel.protocol.row_spans import OPEN
from tfos_fast.channel.remote.client import RemoteAddress
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.failures import unfit_words
from tfos_fast.cluster.protocol.keys import ClusterKeys
from tfos_fast.cluster.spark.task import attempt_here, settle_worker
from tfos_fast.cluster.tasks.choose_node import choose
from tfos_fast.errors import (
    AddressError,
    BrokerDied,
    Elsewhere,
    Fenced,
    NodeFailed,
    NonDeterministicPartition,
    RowTooLarge,
    SchemaMismatch,
    SourceError,
    StallTimeout,
    TfosError,
    Yielded,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from tfos_fast.channel.writer.writer import Writer
    from tfos_fast.cluster.files.split_reader import SplitReader
    from tfos_fast.cluster.spark.frame_columns import FrameColumns

Write = Callable[["Writer", Iterator[Any], int, int], bool]  # items of a partition, from one row to another; whether some are left
PATIENCE = 0.3  # a task of a named feed waits so long for a slot, and then gives its place back to the default feed
# The driver hears of these by itself, and cancels the job; a task that fails before is logged with a hundred lines.
HEARD = (NodeFailed, StallTimeout, BrokerDied)
CANCEL_WAIT = 5.0  # seconds that a task gives it
FENCED_WAIT = 60.0  # a replaced attempt waits so long to be killed by Spark, rather than to fail and be tried again


class PartitionResult(NamedTuple):
    """Say what a feed task has done with its partition. A DataFrame's task returns a record with these columns.

    Attributes
    ----------
    partition : int
    whole : bool
        The task has published every row that the driver wanted.
    over : bool
        No row is left to feed.
    missed : bool
        Rows are left that no node wants.
    error : str
        A row cannot be fed: the name of a class in :mod:`tfos_fast.errors`, a line break, and the text.
    """

    partition: int
    whole: bool = False
    over: bool = True
    missed: bool = False
    error: str = ""


def _write_rows(writer: Writer, rows: Iterator[Any], skip: int, stop: int) -> bool:
    if skip:
        writer.compare_rows(itertools.islice(rows, skip))
    writer.write_rows(rows if stop == OPEN else itertools.islice(rows, stop - skip))
    return _are_left(writer)


def _write_batches(writer: Writer, batches: Iterator[pa.RecordBatch], most: int) -> bool:
    """Write so many rows at most."""
    if most <= 0:
        return False

    def wanted() -> Iterator[pa.RecordBatch]:
        nonlocal most
        for batch in batches:
            yield batch.slice(0, most) if batch.num_rows > most else batch
            most -= batch.num_rows
            if writer.terminated or most <= 0:
                return

    writer.write_batches(wanted())
    return _are_left(writer, batches if most > 0 else ())


def _are_left(writer: Writer, batches: Iterable[pa.RecordBatch] = ()) -> bool:
    """Whether the node wants no more rows, and there are some."""
    return writer.terminated and (writer.has_more() or any(batch.num_rows for batch in batches))


@dataclass(frozen=True)
class Feeder:
    """Feed a partition.

    Parameters
    ----------
    nodes : tuple of NodeInfo
    keys : ClusterKeys
        With which nodes on other hosts let a feeder in.
    job : str
        Prefix of the partitions' keys in the ledger.
    stall_timeout : float
        Seconds without movement after which a wait ends in StallTimeout.
    turn : int
        Parts partitions among nodes that are equally good for them: with another number they part differently.
    name : str
        Of the feed.
    only : frozenset of int, optional
        The partitions that are not whole yet; others end at once.
    exactly_once : bool
        False: a repeated attempt begins at the first row, whatever was delivered.
    """

    nodes: tuple[m.NodeInfo, ...]
    keys: ClusterKeys
    job: str
    stall_timeout: float
    turn: int = 0
    name: str = ""
    only: frozenset[int] | None = None
    exactly_once: bool = True

    def rows(self, _: int, partition: Iterable[Any]) -> Iterator[PartitionResult]:
        """For ``mapPartitionsWithIndex``: yields one ``PartitionResult``."""

        yield self._feed(iter(partition), _write_rows)

    def pickled(self, loads: Callable[[bytes], list[Any]]) -> Callable[[int, Iterable[bytes]], Iterator[PartitionResult]]:
        """For ``mapPartitionsWithIndex`` over pickled batches: yields as ``rows``."""

        def write(writer: Writer, batches: Iterator[bytes], skip: int, stop: int) -> bool:
            if stop != OPEN:
                return _write_rows(writer, itertools.chain.from_iterable(map(loads, batches)), skip, stop)
            if not skip:
                writer.write_pickled(batches, loads)
                return _are_left(writer)
            split: list[tuple[bytes, int]] = []  # the batch in which the skipped rows end, and how many of them it has

            def skipped() -> Iterator[Any]:
                left = skip
                while left and (batch := next(batches, None)) is not None:
                    rows = loads(batch)
                    yield from rows[:left]
                    if len(rows) > left:
                        split.append((batch, left))
                    left -= min(left, len(rows))

            writer.compare_rows(skipped())
            first, begun = split[0] if split else (None, 0)
            writer.write_pickled(batches if first is None else itertools.chain([first], batches), loads, begun)
            return _are_left(writer)

        def run(_: int, partition: Iterable[bytes]) -> Iterator[PartitionResult]:
            yield self._feed(iter(partition), write)

        return run

    def batches(self, columns: FrameColumns) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
        """For ``mapInArrow`` over a DataFrame of these columns: yields one ``PartitionResult`` as a record."""

        def write(writer: Writer, batches: Iterator[pa.RecordBatch], skip: int, stop: int) -> bool:
            split: list[pa.RecordBatch] = []

            def skipped() -> Iterator[pa.RecordBatch]:
                left = skip
                while left and (batch := next(batches, None)) is not None:
                    yield batch.slice(0, left)
                    if batch.num_rows > left:
                        split.append(batch.slice(left))
                    left -= min(left, batch.num_rows)

            if skip:
                writer.compare_batches(skipped())
            return _write_batches(writer, itertools.chain(split, batches), stop - skip)

        def run(partition: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            import pyarrow as pa

            number, *words = self._feed(columns.all(partition), write)
            fields = [pa.array([number], pa.int32()), *(pa.array([word]) for word in words)]
            yield pa.RecordBatch.from_arrays(fields, list(PartitionResult._fields))

        return run

    def files(self, reader: SplitReader) -> Callable[[int, Iterable[Any]], Iterator[PartitionResult]]:
        """For ``mapPartitionsWithIndex`` over splits of files, one in a partition: yields as ``rows``."""

        def write(writer: Writer, splits: Iterator[Any], skip: int, stop: int) -> bool:
            split, *_ = splits  # to the end: Spark lets a worker go that has left some of its input, and the next one imports anew
            return _write_batches(writer, reader.batches(split, writer.slot_bytes, skip), stop - skip)

        def run(number: int, partition: Iterable[Any]) -> Iterator[PartitionResult]:
            yield self._feed(iter(partition), write, number)

        return run

    def _empty(self, number: int) -> None:
        """Tell a node of this host that nothing comes of a partition: nodes that go in step count what is left."""
        for node in self.nodes:
            with contextlib.suppress(AddressError), contextlib.closing(Channel.attach(node.address)) as channel:
                channel.control("empty", f"{self.job}/{number}".encode())
                return

    def _feed(self, items: Iterator[Any], write: Write, split: int | None = None) -> PartitionResult:
        number, attempt = attempt_here()
        number = number if split is None else split  # a job for some of the splits may have numbers of its own
        if self.only is not None and number not in self.only:
            return PartitionResult(number)
        try:
            first = next(items)
        except StopIteration:
            if not self.name:
                self._empty(number)
            return PartitionResult(number)
        items = itertools.chain([first], items)
        best = ""
        while True:
            try:
                return self._feed_to(best, number, attempt, items, write)
            except Elsewhere as other:
                best = str(other)
            except HEARD:
                time.sleep(CANCEL_WAIT)
                raise

    def _wanted(self, best: str) -> tuple[m.NodeInfo, ...]:
        return tuple(node for node in self.nodes if node.name == best) or self.nodes

    def _feed_to(self, best: str, number: int, attempt: int, items: Iterator[Any], write: Write) -> PartitionResult:
        channel = choose(self._wanted(best), self.keys, number, self.turn, self.name, stall_timeout=self.stall_timeout)
        if channel is None and best:  # it wants no more rows by now
            channel = choose(self.nodes, self.keys, number, self.turn, self.name, stall_timeout=self.stall_timeout)
        if channel is None:
            return PartitionResult(number, missed=True)
        try:
            writer = channel.writer(stall_timeout=self.stall_timeout)
            writer.patience = PATIENCE if self.name else None
            done, missed = False, True
            try:
                skip = writer.open_partition(f"{self.job}/{number}", attempt)
                if not self.exactly_once:
                    skip = 0
                if not writer.terminated:
                    missed = write(writer, items, skip, writer.stop)
                    if not writer.terminated and writer.rows < writer.stop < OPEN:
                        raise NonDeterministicPartition(
                            f"partition {self.job}/{number} has {writer.rows} rows now, and had {writer.stop} or more before: a "
                            "trainer was started again and needs the same rows again. Cache or checkpoint the data"
                        )
                    writer.end_partition()
                    missed = missed or writer.dropped
                done = True
            finally:
                writer.close(wait=done and not self.name)
        except Yielded:
            return PartitionResult(number, over=False)  # the rows that were published stay; the next attempt begins behind them
        except Fenced:
            time.sleep(FENCED_WAIT)
            raise
        except (SchemaMismatch, RowTooLarge) as error:
            return self._unfit(channel, number, error)
        except SourceError as error:
            if isinstance(error.__cause__, OSError):
                raise  # another try may be able to read the file
            return self._unfit(channel, number, error)
        finally:
            channel.close()
            settle_worker()
        return PartitionResult(number, whole=not missed, missed=missed)

    def _unfit(self, channel: Channel, number: int, error: Exception) -> PartitionResult:
        """Tell the driver, which ends the job, of a row that cannot be fed. Another try would meet the same row.

        The task does not fail: Spark would log a failure several times, with a hundred lines of its own frames.

        Raises
        ------
        SchemaMismatch, RowTooLarge, SourceError
            Nobody can be told.
        """
        words = unfit_words(error)
        if not isinstance(channel.address, RemoteAddress):  # a gateway relays rows only, and would drop who says more
            with contextlib.suppress(TfosError):
                channel.control("unfit", f"{self.job}\n{words}".encode(errors="replace"), 10.0)
                return PartitionResult(number, error=words)
        raise error.with_traceback(None) from None
