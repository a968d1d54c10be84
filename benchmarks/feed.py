"""Feeding a cluster against Spark's own iteration of the same data: two executors of one core, every column of every batch summed.

*drain* iterates the rows in Spark's Python workers and throws them away; *raw* takes the same cached RDD's pickled batches as bytes
and does not unpickle them, so it is the ceiling. The sums that the trainers found are checked against the source. Cached partitions
are used several times over (``sc.union``), so that a run is long against Spark's fixed cost of a job.

    python benchmarks/feed.py [--repeats 5] [--seconds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, show
from pyspark import SparkConf, SparkContext

import tfos_fast
from tfos_fast.cluster.stored import pickled_batches

CORES = 2


def floats(i: int) -> tuple[list[float], int]:
    """784 Python floats and a label."""
    return [float((i * 31 + k) % 255) for k in range(784)], i % 10


def picture(i: int) -> tuple[np.ndarray, int]:
    """A 28x28 picture of bytes and a label."""
    return np.full((28, 28), i % 255, np.uint8), i % 10


def ten(i: int) -> tuple[tuple[float, ...], int]:
    """A tuple of ten floats and a number."""
    return tuple(float(i % 255 + k) for k in range(10)), i


def words(array: np.ndarray) -> int:
    """The sum of an array's memory, as words where that is possible."""
    flat = array.reshape(-1)
    return int(flat.view(np.uint64).sum() if flat.nbytes % 8 == 0 else flat.view(np.uint8).sum())


def main_of(way: str) -> Callable[[Any, Any], None]:
    """A trainer that sums, by ``batches``, ``tensors`` or ``dataset``."""

    def main(args: Any, ctx: Any) -> None:
        feed = ctx.get_data_feed()
        spec = args["spec"]
        count, total = 0, 0.0

        def epochs() -> Iterator[Any]:
            if way == "batches":
                yield from (tuple(batch.values()) for batch in feed.batches(256, spec))
            elif way == "tensors":
                yield from ([part.numpy() for part in batch] for batch in feed.tensors(256, spec))
            else:
                dataset = feed.dataset(256, spec)
                while not feed.should_stop():  # each iterator is one feed
                    yield from ([part.numpy() for part in batch] for batch in dataset)

        for values, labels in epochs():
            words(values)
            count += len(labels)
            total += float(labels.sum())
        Path(args["out"], f"{ctx.task_index}.json").write_text(json.dumps([count, total]))

    return main


def drain(rdd: Any) -> float:
    begin = time.perf_counter()
    rdd.foreachPartition(lambda rows: collections.deque(rows, maxlen=0))
    return time.perf_counter() - begin


class Feeding:
    """A cluster that is fed again and again."""

    def __init__(self, sc: Any, way: str, spec: Any) -> None:
        self.out = tempfile.TemporaryDirectory()
        self.cluster = tfos_fast.run(sc, main_of(way), {"out": self.out.name, "spec": spec}, CORES)
        self.rows = 0

    def feed(self, rdd: Any) -> float:
        begin = time.perf_counter()
        self.rows += self.cluster.feed(rdd).rows
        return time.perf_counter() - begin

    def check(self, labels_per_row: float) -> None:
        """End it, and compare what the trainers summed with the source."""
        self.cluster.shutdown()
        found = [json.loads(path.read_text()) for path in Path(self.out.name).glob("*.json")]
        count, total = sum(pair[0] for pair in found), sum(pair[1] for pair in found)
        if count != self.rows or abs(total - labels_per_row * count) > 1e-6 * abs(total):
            raise SystemExit(f"{count} rows with labels {total} came, of {self.rows} with {labels_per_row * self.rows}")
        self.out.cleanup()


CASES: dict[str, tuple[Callable[[int], Any], int, Any]] = {
    "list of 784 floats, int (float32)": (floats, 20_000, ("float32", "int32")),
    "list of 784 floats, int (as they are)": (floats, 20_000, None),
    "28x28 uint8 array, int": (picture, 100_000, None),
    "tuple of 10 floats, int": (ten, 400_000, None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long the slowest run of a case takes")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--json", type=Path, help="write everything, raw samples included, to this file")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": machine("numpy", "pyspark", "tensorflow"), "cases": {}}
    show(report["machine"])
    conf = SparkConf().setMaster(f"local-cluster[{CORES},1,4096]").setAppName("tfos_fast benchmark")
    conf.set("spark.ui.enabled", "false").set("spark.ui.showConsoleProgress", "false").set("spark.executor.memory", "4g")
    work = tempfile.TemporaryDirectory(prefix="tfos-bench-", ignore_cleanup_errors=True)
    conf.set("spark.worker.dir", work.name)
    sc = SparkContext(conf=conf)
    sc.setLogLevel("ERROR")
    try:
        for title, (make, count, spec) in CASES.items():
            if options.only in title:
                report["cases"][title] = case(sc, title, make, count, spec, options)
    finally:
        sc.stop()
        work.cleanup()
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def case(sc: Any, title: str, make: Callable[[int], Any], count: int, spec: Any, options: Any) -> dict[str, list[float]]:
    """One case: everything in turns."""
    cached = sc.parallelize(range(count), 2 * CORES).map(make).cache()
    labels = cached.map(lambda row: row[1]).sum() / count
    drain(cached)
    times = max(1, round(options.seconds / drain(cached)))
    rdd = sc.union([cached] * times)
    feeds = {way: Feeding(sc, way, spec) for way in ("tensors", "dataset")}
    ways: dict[str, Callable[[], float]] = {"drain": lambda: drain(rdd), "raw": lambda: drain(pickled_batches(rdd))}
    ways |= {f"feed.{way}(256)": (lambda feed=feeding: feed.feed(rdd)) for way, feeding in feeds.items()}
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.repeats + 1):
        for name, run in ways.items():
            seconds = run()
            if turn:  # the first turn is to warm up
                samples[name].append(count * times / seconds)
    for feeding in feeds.values():
        feeding.check(labels)
    cached.unpersist()
    medians = {name: statistics.median(values) for name, values in samples.items()}
    print(f"\n{title}: {count * times} rows, median thousand rows/s of {options.repeats}, ratio to drain and to raw")
    for name, median in medians.items():
        raw = " ".join(f"{value / 1e3:.1f}" for value in samples[name])
        ratios = f"{median / medians['drain']:6.2f}x   {median / medians['raw']:6.2f}x"
        print(f"  {name:20} {median / 1e3:9.1f}   {ratios}   samples {raw}", flush=True)
    return samples


if __name__ == "__main__":
    main()
