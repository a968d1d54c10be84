"""The code inside a Spark task that feeds its partition to a node of its host and takes the results back."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfos_fast.channel import Channel
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.failures import unfit_words
from tfos_fast.cluster.protocol.identity import host_name
from tfos_fast.cluster.protocol.keys import ClusterKeys
from tfos_fast.cluster.protocol.task_news import stage_key
from tfos_fast.cluster.spark.task import attempt_here, settle_worker, stage_here
from tfos_fast.cluster.tasks.choose_node import choose
from tfos_fast.cluster.tasks.feed import CANCEL_WAIT, HEARD
from tfos_fast.errors import (
    ChannelClosed,
    ClusterError,
    FormError,
    RowTooLarge,
    SchemaMismatch,
    TfosError,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from tfos_fast.cluster.spark.frame_columns import FrameColumns


# Another try would meet these again, and only the task knows of them.
_LASTING = (SchemaMismatch, RowTooLarge, FormError, ChannelClosed, ClusterError)


@dataclass(frozen=True)
class Inferrer:
    """Feed a partition and give back one result per row, in order.

    Results belong to this attempt at the partition, and so an attempt never skips rows of an earlier one.

    Parameters
    ----------
    nodes : tuple of NodeInfo
    keys : ClusterKeys
        With which nodes on other hosts let a feeder in.
    stall_timeout : float
        Seconds without movement after which a wait ends in StallTimeout.
    cancelled : bool
        The driver cancels the job when it hears of an error that no further try mends (``cluster/driver/inferences.py``).
    """

    nodes: tuple[m.NodeInfo, ...]
    keys: ClusterKeys
    stall_timeout: float
    cancelled: bool = False

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
        self, schema: pa.Schema, columns: FrameColumns, given: list[int], keep: dict[int, str], tuples: bool = False
    ) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
        """For ``mapInArrow``: results become columns of the ``schema``, behind the input columns ``keep``.

        Parameters
        ----------
        schema : pyarrow.Schema
        columns : FrameColumns
            Those that main gets.
        given : list of int
            Their places among the batches' columns.
        keep : dict of int to str
            The kept ones' places and names.
        tuples : bool
            See :func:`tfos_fast.channel.arrow.unpack.slot_to_arrow`.
        """

        def run(partition: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            from tfos_fast.channel.arrow.unpack import slot_to_arrow

            def decode(layout: Any, slot: Any, count: int) -> pa.RecordBatch:
                return slot_to_arrow(layout, slot, count, schema, tuples=tuples)

            kept = KeptColumns(keep)
            batches = kept.watch((batch for batch in partition if batch.num_rows), columns, given)
            for results in self._exchange(batches, arrow=True, decode=decode):
                yield from kept.before(results)

        return run

    def samples(self, columns: FrameColumns) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
        """For ``mapInArrow`` over a DataFrame of these columns: results as pickled lists, in one column."""

        def run(partition: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            import pyarrow as pa

            for results in self._exchange(columns.all(partition), arrow=True):
                yield pa.RecordBatch.from_pydict({"results": pa.array([pickle.dumps(results)], pa.binary())})

        return run

    def _exchange(self, items: Iterator[Any], **how: Any) -> Iterator[Any]:
        number, attempt = attempt_here()
        try:
            first = next(items)
        except StopIteration:
            return
        stage = stage_here()
        writer = channel = None
        try:
            channel = choose(self.nodes, self.keys, number, stall_timeout=self.stall_timeout)
            if channel is None:
                raise ClusterError(
                    f"no node that {host_name()} reaches takes rows any more: its main has returned or called terminate()"
                )
            writer = channel.writer(stall_timeout=self.stall_timeout)
            key = f"{stage_key(stage)}/{number}/{secrets.token_hex(8)}"
            yield from writer.exchange(itertools.chain([first], items), key, attempt, **how)
        except TfosError as error:
            heard = writer is not None and isinstance(error, HEARD)
            if self.cancelled and (heard or (isinstance(error, _LASTING) and self._tell(stage, error))):
                time.sleep(CANCEL_WAIT)
            # The message has all that helps: Spark logs our frames with each try.
            raise error.with_traceback(None) from None
        finally:
            if writer is not None:
                writer.close()
            if channel is not None:
                channel.close()
            settle_worker()

    def _tell(self, stage: int, error: TfosError) -> bool:
        """Tell the driver, by way of a node of this host, of an error that another try would meet again; whether it hears it."""
        body = f"{stage_key(stage)}\n{unfit_words(error)}".encode(errors="replace")
        for node in self.nodes:
            with contextlib.suppress(TfosError), contextlib.closing(Channel.attach(node.address)) as channel:
                channel.control("unfit", body, 10.0)
                return True
        return False


class KeptColumns:
    """The input columns that go before the results. Only those of rows whose results are outstanding are held; nothing is copied.

    Parameters
    ----------
    names : dict of int to str
        Their places among the batches' columns, and what they are called.
    """

    def __init__(self, names: dict[int, str]) -> None:
        self._names = names
        self._held: deque[pa.RecordBatch] = deque()

    def watch(self, batches: Iterator[pa.RecordBatch], columns: FrameColumns, given: list[int]) -> Iterator[pa.RecordBatch]:
        """Hold the kept columns of batches that pass; goes on with ``columns``, which lie at the places ``given``."""
        for batch in batches:
            if self._names:
                self._held.append(batch.select(list(self._names)))
            yield columns.given(batch if given == list(range(batch.num_columns)) else batch.select(given))

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
            kept = [field.with_name(name) for field, name in zip(batch.schema, self._names.values(), strict=True)]
            part, fields = results.slice(at, count), [*kept, *results.schema]
            yield pa.RecordBatch.from_arrays([*batch.slice(0, count).columns, *part.columns], schema=pa.schema(fields))
            at += count
