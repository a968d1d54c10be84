"""The code inside a Spark task that feeds its partition to a node of its host and takes the results back."""

from __future__ import annotations

import itertools
import pickle
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfos_fast.cluster import messages as m
from tfos_fast.cluster.agent import LOCAL_KEYS
from tfos_fast.cluster.choosing import choose
from tfos_fast.cluster.entrance import Keys
from tfos_fast.cluster.feeder import attempt_here, settle_worker
from tfos_fast.errors import ClusterError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Inferrer:
    """Feed a partition and give back one result per row, in order.

    Results belong to this attempt at the partition, and so an attempt never skips rows of an earlier one.

    Parameters
    ----------
    nodes : tuple of NodeInfo
    keys : Keys
        With which nodes on other hosts let a feeder in.
    stall_timeout : float
        Seconds without movement after which a wait ends in StallTimeout.
    """

    nodes: tuple[m.NodeInfo, ...]
    keys: Keys
    stall_timeout: float

    def rows(self, _: int, partition: Iterable[Any]) -> Iterator[Any]:
        """For ``mapPartitionsWithIndex``."""
        for results in self._exchange(iter(partition)):
            yield from results

    def pickled(self, loads: Callable[[bytes], list[Any]]) -> Callable[[int, Iterable[bytes]], Iterator[Any]]:
        """For ``mapPartitionsWithIndex`` over pickled batches."""

        def run(_: int, partition: Iterable[bytes]) -> Iterator[Any]:
            for results in self._exchange(iter(partition), loads=loads):
                yield from results

        return run

    def batches(
        self, schema: Any, given: list[str], keep: list[str]
    ) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
        """For ``mapInArrow``: results become columns of the Spark ``schema``, behind the input columns ``keep``.

        ``given``: the input columns that main gets.
        """
        from pyspark.sql.pandas.types import to_arrow_schema

        arrow_schema = to_arrow_schema(schema)

        def run(partition: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            from tfos_fast.channel.arrow_out import slot_to_arrow

            kept = Kept(keep)
            batches = kept.watch((batch for batch in partition if batch.num_rows), given)
            for results in self._exchange(
                batches, arrow=True, decode=lambda layout, slot, count: slot_to_arrow(layout, slot, count, arrow_schema)
            ):
                yield from kept.before(results)

        return run

    def samples(self, partition: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """For ``mapInArrow``: results as pickled lists, in one column."""
        import pyarrow as pa

        for results in self._exchange((batch for batch in partition if batch.num_rows), arrow=True):
            yield pa.RecordBatch.from_pydict({"results": pa.array([pickle.dumps(results)], pa.binary())})

    def _exchange(self, items: Iterator[Any], **how: Any) -> Iterator[Any]:
        number, attempt = attempt_here()
        try:
            first = next(items)
        except StopIteration:
            return
        channel = choose(self.nodes, self.keys, number, stall_timeout=self.stall_timeout)
        if channel is None:
            raise ClusterError(
                f"no node that {socket.gethostname()} reaches takes rows any more: its main has returned or called terminate()"
            )
        writer = None
        try:
            writer = channel.writer(stall_timeout=self.stall_timeout)
            key = f"{LOCAL_KEYS}{number}/{secrets.token_hex(8)}"
            yield from writer.exchange(itertools.chain([first], items), key, attempt, **how)
        finally:
            if writer is not None:
                writer.close()
            channel.close()
            settle_worker()


class Kept:
    """The input columns that go before the results. Only those of rows whose results are outstanding are held; nothing is copied.

    Parameters
    ----------
    names : list of str
    """

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._held: deque[pa.RecordBatch] = deque()

    def watch(self, batches: Iterator[pa.RecordBatch], given: list[str]) -> Iterator[pa.RecordBatch]:
        """Hold the kept columns of batches that pass; goes on with the columns ``given``."""
        for batch in batches:
            if self._names:
                self._held.append(batch.select(self._names))
            yield batch if batch.schema.names == given else batch.select(given)

    def before(self, results: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """The results of the next rows behind their kept columns; in several batches where these lie in several."""
        import pyarrow as pa

        if not self._names:
            yield results
            return
        at = 0
        while at < results.num_rows:
            batch = self._held.popleft()
            count = min(batch.num_rows, results.num_rows - at)
            if count < batch.num_rows:
                self._held.appendleft(batch.slice(count))
            part, fields = results.slice(at, count), [*batch.schema, *results.schema]
            yield pa.RecordBatch.from_arrays([*batch.slice(0, count).columns, *part.columns], schema=pa.schema(fields))
            at += count
