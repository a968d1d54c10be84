"""What runs on the nodes, of tfos_fast or of TensorFlowOnSpark: each reads its feed in one way and sends what it saw in the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from benchmarks.collector import send
from benchmarks.rows import Sums, Tally, sums_of

BATCH = 256


def _columns(batch: Any) -> Sequence[Any]:
    """A batch's columns."""
    return list(batch.values()) if isinstance(batch, dict) else batch


def _batches(feed: Any, way: str, spec: Any) -> Iterator[Any]:
    if way == "tensors":
        yield from feed.tensors(BATCH, spec)
        return
    dataset = feed.dataset(BATCH, spec)
    if way == "pipeline":
        dataset = dataset.map(lambda *columns: columns)
    while not feed.should_stop():  # each iterator is an epoch
        yield from dataset


def summing(args: Any, ctx: Any) -> None:
    """Sum every column of every batch, read by ``tensors``, by ``dataset``, or ("pipeline") by a dataset with a map behind it."""
    send(args["to"], args["of"] + " began", pid=os.getpid())
    tally = Tally()
    for batch in _batches(ctx.get_data_feed(), args["way"], args["spec"]):
        tally.add(_columns(batch))
    send(args["to"], args["of"], rows=tally.sums.rows, columns=tally.sums.columns)


def reading_rows(args: Any, ctx: Any) -> None:
    """Sum rows as ``next_batch`` hands them out, and note when each batch came."""
    feed = ctx.get_data_feed()
    found, arrivals = Sums(), []
    while not feed.should_stop():
        rows = feed.next_batch(BATCH)
        if rows:
            arrivals.append(time.time())
            found = found + sums_of(rows, args["dtypes"])
    send(args["to"], args["of"], rows=found.rows, columns=found.columns, arrivals=arrivals)


def nothing(args: Any, ctx: Any) -> None:
    """For the time that a cluster takes to come and go."""


def noting_arrivals(args: Any, ctx: Any) -> None:
    """Note when each batch came, by the clock that the driver reads, too."""
    arrivals = []
    for batch in ctx.get_data_feed().tensors(BATCH):
        arrivals.append(time.time())
        _columns(batch)
    send(args["to"], args["of"], arrivals=arrivals)


def one_by_one(args: Any, ctx: Any) -> None:
    """Seconds of each ``next_batch(1)``."""
    feed = ctx.get_data_feed()
    send(args["to"], args["of"], seconds=time_calls(feed))


def time_calls(feed: Any) -> list[float]:
    """Of ``next_batch(1)``, until the feed ends."""
    seconds = []
    clock: Callable[[], float] = time.perf_counter
    while not feed.should_stop():
        begin = clock()
        rows = feed.next_batch(1)
        if rows:
            seconds.append(clock() - begin)
    return seconds


def doubling(args: Any, ctx: Any) -> None:
    """Inference: twice the row's second value."""
    feed = ctx.get_data_feed(train_mode=False)
    while not feed.should_stop():
        rows = feed.next_batch(BATCH)
        if rows:
            feed.batch_results([2 * row[1] for row in rows])


# ---- what the reports say, for the driver ----------------------------------------------------------------------------------------


def sums_in(reports: Iterable[dict[str, Any]]) -> Sums:
    """All that the trainers found."""
    found = Sums()
    for report in reports:
        found = found + Sums(report["rows"], tuple(report["columns"]))
    return found


def delays(calls: Iterable[float], reports: Iterable[dict[str, Any]]) -> list[float]:
    """Milliseconds from each call to the first arrival after it."""
    arrivals = sorted(arrival for report in reports for arrival in report["arrivals"])
    return [1e3 * (next(arrival for arrival in arrivals if arrival >= call) - call) for call in calls]
