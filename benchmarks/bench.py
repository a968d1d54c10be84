"""What every case uses: the Spark context, a cluster that is fed again and again, and measuring in turns."""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import tfos_fast
from benchmarks import cpu, trainers
from benchmarks.collector import Collector
from benchmarks.rows import Kind, Sums, partition_sums


@dataclass
class Bench:
    """A run.

    Parameters
    ----------
    sc : SparkContext
    options : Namespace
        ``executors``, ``repeats``, ``seconds``, ``quick``, ``memory``, ``data``, ``profile``.
    collector : Collector
    tfos : dict
        Case -> way -> samples of TensorFlowOnSpark; empty where it was not measured.
    cpu : dict
        Way -> CPU times of the case that runs, when they are asked for (``--profile``).
    """

    sc: Any
    options: argparse.Namespace
    collector: Collector
    tfos: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    cpu: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def count(self, usual: int) -> int:
        """Rows that are kept: fewer in a quick run."""
        return max(usual // 20, 2000) if self.options.quick else usual

    def in_turns(self, ways: dict[str, Callable[[], float]], rows: Mapping[str, int] | None = None) -> dict[str, list[float]]:
        """Figures of every way. They take turns, so that a change of the machine's speed meets all; a first turn warms up.

        With ``--profile`` their CPU times are counted too, for each row where all that a way does is to move ``rows``.
        """
        rows = rows or {}
        samples: dict[str, list[float]] = {way: [] for way in ways}
        times = {way: cpu.Times() for way in ways}
        for turn in range(self.options.repeats + 1):
            for way, run in ways.items():
                with cpu.counted(times[way]) if self.options.profile and turn else contextlib.nullcontext():
                    figure = run()
                if turn:
                    samples[way].append(figure)
        if self.options.profile:
            self.cpu = {way: cpu.summary(spent, rows.get(way, 0) * self.options.repeats) for way, spent in times.items()}
        return samples

    def rates(self, ways: dict[str, Callable[[int], Any]], rows: int) -> tuple[dict[str, list[float]], str]:
        """Rows per second of ways that move the same ``rows`` so many times over as they are told.

        Each is told as often as makes it last the time asked for: were all to move equally many, what a Spark job costs to begin
        would weigh on the fast ways only.

        Returns
        -------
        (dict, str)
            The samples, and what a reader has to know about them.
        """
        times = {way: self.times_for(functools.partial(run, 1)) for way, run in ways.items()}

        def rate(way: str) -> float:
            return rows * times[way] / timed(functools.partial(ways[way], times[way]))

        samples = self.in_turns({way: functools.partial(rate, way) for way in ways}, {way: rows * times[way] for way in ways})
        return samples, f"{rows} rows, in a run {', '.join(f'{count} times ({way})' for way, count in times.items())}"

    def times_for(self, run: Callable[[], Any], minimum: int = 1) -> int:
        """How often what ``run`` does has to be done to take the time asked for."""
        run()
        return max(minimum, math.ceil(self.options.seconds / timed(run)))


def timed(run: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


# ---- ceilings: what Spark itself does --------------------------------------------------------------------------------------------


def drain(rdd: Any) -> None:
    """Iterate the rows (or the pickled batches) in Spark's Python workers and throw them away."""
    rdd.foreachPartition(lambda rows: collections.deque(rows, maxlen=0))


def count_in_arrow(frame: Any) -> None:
    """A ``mapInArrow`` that only counts rows."""
    import pyarrow as pa

    def count(batches: Any) -> Any:
        yield pa.RecordBatch.from_pydict({"rows": pa.array([sum(batch.num_rows for batch in batches)], pa.int64())})

    frame.mapInArrow(count, "rows long").collect()


# ---- the data --------------------------------------------------------------------------------------------------------------------


@dataclass
class Cached:
    """A cached RDD of one kind, which can be had several times over: a union stays stored.

    Parameters
    ----------
    bench : Bench
    once : RDD
    sums : Sums
        Of it.
    """

    bench: Bench
    once: Any
    sums: Sums

    @classmethod
    def make(cls, bench: Bench, kind: Kind) -> Cached:
        count = bench.count(kind.count)
        once = bench.sc.parallelize(range(count), 2 * bench.options.executors).map(kind.make).cache()
        sums = once.mapPartitions(partition_sums(kind.dtypes)).reduce(lambda one, other: one + other)
        return cls(bench, once, sums)

    def times(self, count: int) -> Any:
        """An RDD that has it so many times over."""
        return self.bench.sc.union([self.once] * count)


# ---- a cluster that is fed again and again ---------------------------------------------------------------------------------------


class Feeding:
    """A cluster whose trainers sum what they get.

    Parameters
    ----------
    bench : Bench
    name : str
        Of its reports: not used twice in a run.
    way : str
        ``"tensors"``, ``"dataset"`` or ``"pipeline"``.
    spec : tuple, optional
    memory : int or str, optional
        Shared memory of each node.
    """

    def __init__(self, bench: Bench, name: str, way: str = "tensors", spec: Any = None, memory: int | str | None = None) -> None:
        self._bench = bench
        self._name = name
        self._expected = Sums()
        arguments = {"to": bench.collector.address, "of": name, "way": way, "spec": spec}
        nodes = bench.options.executors
        self.cluster = tfos_fast.run(bench.sc, trainers.summing, arguments, nodes, memory=memory or bench.options.memory)
        try:
            self.trainers = [report["pid"] for report in bench.collector.wait(f"{name} began", nodes)]
        except BaseException:
            self.cluster.abort()
            raise

    def feed(self, data: Any, sums: Sums, **how: Any) -> float:
        """Rows per second of one feed of ``data``, whose sums (over all epochs) are these."""
        begin = time.perf_counter()
        self.cluster.feed(data, **how)
        seconds = time.perf_counter() - begin
        self._expected = self._expected + sums
        return sums.rows / seconds

    def __enter__(self) -> Feeding:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self.cluster.abort()
            return
        self.cluster.shutdown()
        found = trainers.sums_in(self._bench.collector.wait(self._name, len(self.cluster.nodes)))
        if found != self._expected:
            raise SumsDiffer(f"the trainers of {self._name} found {found}, and the source has {self._expected}")


class SumsDiffer(Exception):
    """What came is not what was sent."""
