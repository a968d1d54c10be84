"""The cases that TensorFlowOnSpark has a part in. Runs in its environment: imports neither tfos_fast nor what that needs.

    .venv-tfos/bin/python -m benchmarks.tfos.cases '{"cases": ["tens"], "executors": 2, "repeats": 5, "seconds": 5}'

Everything is as in our own cases (rows, executors, batches of 256, sums checked), but for what makes it look better: there is one
partition for each node, since its feeders wait in steps of a second for the end of each, and a rate counts the time until the last
row was read, not the rest of that second. It reads rows one by one, so it gets fewer.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from tensorflowonspark import TFCluster

from benchmarks import trainers
from benchmarks.collector import Collector
from benchmarks.rows import KINDS, small, sums_of
from benchmarks.spark import context, driver_host

KIND = {"floats": "floats64", "pictures": "pictures", "tens": "tens"}  # it has no spec: floats stay float64
# About how many rows a second it moves: says how many there have to be.
SPEED = {"floats": 3_000, "pictures": 15_000, "tens": 18_000, "infer": 8_000}
CALLS = 2_000  # of next_batch(1), each node and turn
Samples = dict[str, list[float]]


@dataclass
class Tfos:
    """A run.

    Parameters
    ----------
    sc : SparkContext
    collector : Collector
    executors, repeats : int
    seconds : float
        About how long a run takes.
    """

    sc: Any
    collector: Collector
    executors: int
    repeats: int
    seconds: float

    @property
    def turns(self) -> range:
        """The first warms up."""
        return range(self.repeats + 1)

    @contextmanager
    def cluster(self, main: Callable[[Any, Any], None], **arguments: Any) -> Any:
        """A cluster of one node for each executor, which is shut down in the end."""
        args = {"to": self.collector.address, **arguments}
        cluster = TFCluster.run(self.sc, main, args, self.executors, 0, input_mode=TFCluster.InputMode.SPARK)
        yield cluster
        cluster.shutdown()

    def rows(self, make: Callable[[int], Any], count: int, partitions: int) -> Any:
        """A cached RDD. Made when the nodes are there, and with them all executors, so that each caches its part."""
        rdd = self.sc.parallelize(range(count), partitions).map(make).cache()
        rdd.foreach(lambda row: None)
        return rdd

    def whole_batches(self, seconds_of_rows: float) -> int:
        """Rows of which every node gets a whole number of batches, so that none waits for the rest of one."""
        step = trainers.BATCH * self.executors
        return max(1, round(seconds_of_rows / step)) * step


def train(run: Tfos, name: str) -> Samples:
    """Rows per second into ``next_batch(256)``."""
    kind = KINDS[KIND[name]]
    count = run.whole_batches(SPEED[name] * run.seconds)
    calls = []
    with run.cluster(trainers.reading_rows, of=name, dtypes=kind.dtypes) as cluster:
        rdd = run.rows(kind.make, count, run.executors)
        for _ in run.turns:
            calls.append(time.time())
            cluster.train(rdd, num_epochs=1)
        calls.append(time.time())
        rdd.unpersist()
    reports = run.collector.wait(name, run.executors)
    expected = sums_of((kind.make(i) for i in range(count)), kind.dtypes) * len(run.turns)
    found = trainers.sums_in(reports)
    if found != expected:
        raise ValueError(f"the trainers of {name} found {found}, and the source has {expected}")
    arrivals = sorted(arrival for report in reports for arrival in report["arrivals"])
    rates = [count / (max(one for one in arrivals if begin <= one <= end) - begin) for begin, end in itertools.pairwise(calls)]
    return {"train": rates[1:]}


def infer(run: Tfos, name: str) -> Samples:
    """Rows per second to the nodes and a result for each back."""
    count = run.whole_batches(SPEED[name] * run.seconds)
    rates = []
    with run.cluster(trainers.doubling) as cluster:
        rdd = run.rows(small, count, run.executors)
        results = cluster.inference(rdd)
        for _ in run.turns:
            begin = time.perf_counter()
            total = results.sum()
            rates.append(count / (time.perf_counter() - begin))
            if total != count * (count - 1) // 2:
                raise ValueError(f"the results add up to {total}, and should to {count * (count - 1) // 2}")
        rdd.unpersist()
    return {"infer": rates[1:]}


def first_batch(run: Tfos, name: str) -> Samples:
    """Milliseconds from the call of ``train()`` until a trainer has a batch."""
    calls = []
    with run.cluster(trainers.reading_rows, of=name, dtypes=("int64", "float64")) as cluster:
        rdd = run.rows(small, 2 * run.executors * trainers.BATCH, 2 * run.executors)
        for _ in run.turns:
            calls.append(time.time())
            cluster.train(rdd, num_epochs=1)
        rdd.unpersist()
    return {"first batch": trainers.delays(calls, run.collector.wait(name, run.executors))[1:]}


def next_batch_1(run: Tfos, name: str) -> Samples:
    """Microseconds of a call of ``next_batch(1)``: the median over the calls of a turn."""
    with run.cluster(trainers.one_by_one, of=name) as cluster:
        rdd = run.rows(small, CALLS * run.executors, run.executors)
        for _ in run.turns:
            cluster.train(rdd, num_epochs=1)
        rdd.unpersist()
    seconds = [report["seconds"] for report in run.collector.wait(name, run.executors)]
    turns = [[one[turn * CALLS : (turn + 1) * CALLS] for one in seconds] for turn in run.turns]
    return {"next_batch(1)": [1e6 * statistics.median(itertools.chain(*turn)) for turn in turns[1:]]}


def lifecycle(run: Tfos, name: str) -> Samples:
    """Seconds of ``run()`` and of ``shutdown()``, with a main that does nothing."""
    starts, stops = [], []
    for _ in run.turns:
        begin = time.perf_counter()
        with run.cluster(trainers.nothing):
            began = time.perf_counter()
        starts.append(began - begin)
        stops.append(time.perf_counter() - began)
    return {"start": starts[1:], "shutdown": stops[1:], "both": [sum(pair) for pair in zip(starts, stops, strict=True)][1:]}


CASES: dict[str, Callable[[Tfos, str], Samples]] = {
    "floats": train,
    "pictures": train,
    "tens": train,
    "infer": infer,
    "first-batch": first_batch,
    "next-batch-1": next_batch_1,
    "lifecycle": lifecycle,
}


def main() -> None:
    """Print the samples as one line of JSON; how it goes is told on standard error."""
    options = {"conf": [], "executor_mib": 2048, "executors": 2, "repeats": 5, "seconds": 5.0, **json.loads(sys.argv[1])}
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    samples: dict[str, Samples] = {}
    with context(None, options["executors"], options["executor_mib"], options["conf"], "TensorFlowOnSpark") as sc:
        collector = Collector(driver_host(sc))
        run = Tfos(sc, collector, options["executors"], options["repeats"], options["seconds"])
        for name in options["cases"]:
            begin = time.monotonic()
            samples[name] = CASES[name](run, name)
            print(f"TensorFlowOnSpark, {name}: measured in {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        collector.close()
    versions = {package: version(package) for package in ("tensorflowonspark", "pyspark", "tensorflow", "numpy")}
    print(json.dumps({"versions": versions, "samples": samples}), flush=True)


if __name__ == "__main__":
    main()
