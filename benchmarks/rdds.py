"""Cases that feed RDDs: cached ones, one whose rows Python makes, and replayed epochs."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from typing import Any

from benchmarks.bench import Bench, Cached, Feeding, drain, timed
from benchmarks.report import Bar, Case
from benchmarks.rows import KINDS, partition_sums
from tfos_fast import Cluster
from tfos_fast.cluster.spark.pickled_rdd import pickled_batches

TENSORS, DATASET, PIPELINE, TFOS = "feed.tensors(256)", "feed.dataset(256)", "feed.dataset(256).map()", "TFoS"
# Least ratios of tensors(256) to drain, raw and TFoS, and of dataset(256) to tensors(256).
BARS = {
    "floats32": (2.2, 0.8, 30.0, 1 / 1.5),
    "floats64": (2.2, 0.8, 30.0, 1 / 1.5),
    "pictures": (1.3, 0.75, 100.0, 1 / 1.5),
    "tens": (1.3, 0.5, 100.0, 1 / 3),
}


def stored(bench: Bench, name: str) -> Case:
    """A cached RDD of one kind."""
    kind = KINDS[name]
    data = Cached.make(bench, kind)
    with ExitStack() as stack:
        ways = ("tensors", "dataset", "pipeline")
        feeds = {way: stack.enter_context(Feeding(bench, f"{name} {way}", way, kind.spec)) for way in ways}
        samples, note = bench.rates(
            {
                "drain": lambda times: drain(data.times(times)),
                "raw": lambda times: drain(pickled_batches(data.times(times))),
                TENSORS: lambda times: feeds["tensors"].feed(data.times(times), data.sums * times),
                DATASET: lambda times: feeds["dataset"].feed(data.times(times), data.sums * times),
                PIPELINE: lambda times: feeds["pipeline"].feed(data.times(times), data.sums * times),
            },
            data.sums.rows,
        )
    data.once.unpersist()
    # TFoS makes no difference between the two kinds of floats: it has no spec.
    samples[TFOS] = bench.tfos.get("floats" if name.startswith("floats") else name, {}).get("train", [])
    to_drain, to_raw, to_tfos, dataset = BARS[name]
    bars = [Bar(TENSORS, "drain", to_drain), Bar(TENSORS, "raw", to_raw), Bar(TENSORS, TFOS, to_tfos)]
    bars += [Bar(DATASET, TENSORS, dataset), Bar(DATASET, "drain"), Bar(DATASET, "raw")]
    bars += [Bar(PIPELINE, TENSORS), Bar("raw", "drain")]
    note = "drain iterates the rows in Spark's workers, raw takes their pickled batches as bytes\n  " + note
    return Case(name, f"cached RDD of ({kind.title})", "rows/s", samples, bars, note)


def made_by_python(bench: Bench, name: str) -> Case:
    """Rows that a Python lambda makes in the task that feeds them."""
    kind = KINDS["tens"]
    source = bench.sc.parallelize(range(bench.count(kind.count)), 2 * bench.options.executors)
    make = lambda i: (tuple([float(i % 255 + k) for k in range(10)]), i)  # noqa: E731
    sums = source.map(make).mapPartitions(partition_sums(kind.dtypes)).reduce(lambda one, other: one + other)

    def rows(times: int) -> Any:
        return bench.sc.union([source] * times).map(make)

    with Feeding(bench, name) as feed:
        samples, note = bench.rates(
            {"drain": lambda times: drain(rows(times)), TENSORS: lambda times: feed.feed(rows(times), sums * times)}, sums.rows
        )
    title = "RDD whose rows a Python lambda makes: (tuple of 10 floats, int)"
    return Case(name, title, "rows/s", samples, [Bar(TENSORS, "drain", 0.85)], note)


def replay(bench: Bench, name: str) -> Case:
    """Epochs after the first with ``keep="memory"``: the time that further epochs add, per epoch."""
    kind = KINDS["floats32"]
    title = f'epochs 2+ of feed(rdd, epochs=k, keep="memory"): cached RDD of ({kind.title})'
    again = 'keep="memory", epochs 2+'
    bars = [Bar(again, "raw", 5.0), Bar(again, "drain")]
    if "keep" not in inspect.signature(Cluster.feed).parameters:
        return Case(name, title, "rows/s", {again: []}, bars)
    data = Cached.make(bench, kind)
    rdd, sums = data.times(4), data.sums * 4
    raw_rate = sums.rows / timed(lambda: drain(pickled_batches(rdd)))
    times = max(1, round(bench.options.seconds * raw_rate / data.sums.rows))
    whole = data.times(times)
    further = max(2, round(bench.options.seconds * 5 * raw_rate / sums.rows))
    # A node keeps its share and has room to move; partitions are not dealt quite evenly.
    memory = max(256 << 20, 2 * sums.rows * (784 * 4 + 4) // bench.options.executors)

    def rate(feed: Feeding) -> float:
        first = sums.rows / feed.feed(rdd, sums, epochs=1, keep="memory")
        every = sums.rows * (1 + further) / feed.feed(rdd, sums * (1 + further), epochs=1 + further, keep="memory")
        return sums.rows * further / (every - first)

    with Feeding(bench, name, "tensors", kind.spec, memory) as feed:
        samples = bench.in_turns(
            {
                "drain": lambda: data.sums.rows * times / timed(lambda: drain(whole)),
                "raw": lambda: data.sums.rows * times / timed(lambda: drain(pickled_batches(whole))),
                again: lambda: rate(feed),
            }
        )
    data.once.unpersist()
    return Case(name, title, "rows/s", samples, bars, f"{sums.rows} rows, {further} further epochs")
