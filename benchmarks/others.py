"""Cases about the channel alone, inference, latencies and memory."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil

import tfos_fast
from benchmarks import channel, trainers
from benchmarks.bench import Bench, Cached, Feeding, drain, timed
from benchmarks.report import Bar, Case
from benchmarks.rows import KINDS, small

MIB = 1 << 20


def channel_alone(bench: Bench, name: str) -> Case:
    """Arrow batches between two processes and the broker, in slots of 4 MB or 1 MB."""
    block = int(name.removeprefix("channel-").removesuffix("m")) * MIB
    total = round(bench.options.seconds * 6e9 / block) * block
    ways = {
        "memcpy": lambda: channel.by_memcpy(total, block) / 1e9,
        "memcpy beside a reader": lambda: channel.by_memcpy_beside_a_reader(total, block) / 1e9,
        "channel": lambda: channel.by_channel_arrow(total, block) / 1e9,
    }
    title = f"the channel alone: Arrow batches of {block // MIB} MB, every byte read"
    note = (
        "memcpy: the same blocks into a ring as large as the segment, in one process, nobody reads; beside a reader: another "
        "process reads the ring meanwhile, and neither waits for the other"
    )
    bars = [Bar("channel", "memcpy", 0.75 if block == 4 * MIB else 0.5), Bar("channel", "memcpy beside a reader")]
    bars.append(Bar("memcpy beside a reader", "memcpy"))
    return Case(name, title, "GB/s", bench.in_turns(ways), bars, note)


def infer(bench: Bench, name: str) -> Case:
    """Small rows to the nodes, and a result for each back."""
    count = bench.count(200_000)
    once = bench.sc.parallelize(range(count), 2 * bench.options.executors).map(small).cache()
    work = lambda rows: (2 * row[1] for row in rows)  # noqa: E731
    expected = count * (count - 1) // 2

    def rows(times: int) -> Any:
        return bench.sc.union([once] * times)

    def add_up(results: Any, times: int) -> None:
        total = results.sum()
        if total != expected * times:
            raise ValueError(f"the results add up to {total}, and should to {expected * times}")

    arguments = {"to": bench.collector.address}
    with tfos_fast.run(bench.sc, trainers.doubling, arguments, bench.options.executors, memory=bench.options.memory) as cluster:
        samples, note = bench.rates(
            {
                "map in Spark": lambda times: add_up(rows(times).mapPartitions(work), times),
                "infer": lambda times: add_up(cluster.infer(rows(times)), times),
            },
            count,
        )
    once.unpersist()
    samples["TFoS"] = bench.tfos.get(name, {}).get("infer", [])
    bars = [Bar("infer", "TFoS", 20.0), Bar("infer", "map in Spark")]
    return Case(name, "inference of rows of (int, float) to floats", "rows/s", samples, bars, note)


def first_batch(bench: Bench, name: str) -> Case:
    """Milliseconds from the call of ``feed()`` until a trainer has a batch, on an idle cluster."""
    nodes = bench.options.executors
    rdd = bench.sc.parallelize(range(2 * nodes * trainers.BATCH), 2 * nodes).map(small).cache()
    drain(rdd)
    calls: list[float] = []
    arguments = {"to": bench.collector.address, "of": name}
    with tfos_fast.run(bench.sc, trainers.noting_arrivals, arguments, nodes, memory=bench.options.memory) as cluster:

        def feed() -> float:
            calls.append(time.time())
            cluster.feed(rdd)
            return 0.0

        samples = bench.in_turns({"Spark job that does nothing": lambda: 1e3 * timed(lambda: drain(rdd)), "first batch": feed})
    rdd.unpersist()
    samples["first batch"] = trainers.delays(calls, bench.collector.wait(name, nodes))[1:]
    samples["TFoS"] = bench.tfos.get(name, {}).get("first batch", [])
    note = "clocks of different machines are compared where the nodes are not on the driver's"
    bars = [Bar("first batch", "TFoS"), Bar("first batch", "Spark job that does nothing")]
    return Case(name, "from the call of feed() to the first batch in a trainer", "ms", samples, bars, note)


def next_batch_1(bench: Bench, name: str) -> Case:
    """Microseconds of a call of ``next_batch(1)``: the median over the calls that a node makes."""
    nodes = bench.options.executors
    count = bench.count(200_000)
    rdd = bench.sc.parallelize(range(count), 2 * nodes).map(small).cache()
    drain(rdd)
    samples: list[float] = []
    for turn in range(bench.options.repeats):
        arguments = {"to": bench.collector.address, "of": f"{name} {turn}"}
        with tfos_fast.run(bench.sc, trainers.one_by_one, arguments, nodes, memory=bench.options.memory) as cluster:
            cluster.feed(rdd)
        samples.append(per_call(bench.collector.wait(f"{name} {turn}", nodes)))
    rdd.unpersist()
    ways = {"next_batch(1)": samples, "TFoS": bench.tfos.get(name, {}).get("next_batch(1)", [])}
    return Case(name, "a call of next_batch(1), rows of (int, float)", "us", ways, [Bar("next_batch(1)", "TFoS")])


def per_call(reports: Iterable[dict[str, Any]]) -> float:
    """The median of all calls, in microseconds."""
    return 1e6 * statistics.median(seconds for report in reports for seconds in report["seconds"])


def lifecycle(bench: Bench, name: str) -> Case:
    """Seconds that a cluster takes to come and to go, beyond the SparkContext; its main does nothing."""
    starts, stops = [], []
    for _ in range(bench.options.repeats + 1):
        begin = time.perf_counter()
        cluster = tfos_fast.run(bench.sc, trainers.nothing, {}, bench.options.executors, memory=bench.options.memory)
        began = time.perf_counter()
        cluster.shutdown()
        starts.append(began - begin)
        stops.append(time.perf_counter() - began)
    both = [start + stop for start, stop in zip(starts, stops, strict=True)]
    samples = {"reserve + start": starts[1:], "shutdown": stops[1:], "both": both[1:], "asked": [3.0]}
    theirs = bench.tfos.get(name, {})
    samples |= {"TFoS run": theirs.get("start", []), "TFoS shutdown": theirs.get("shutdown", []), "TFoS": theirs.get("both", [])}
    title = f"a cluster of {bench.options.executors} nodes whose main does nothing"
    return Case(name, title, "s", samples, [Bar("both", "asked", 1.0, most=True), Bar("both", "TFoS")])


# ---- memory ----------------------------------------------------------------------------------------------------------------------


def memory(bench: Bench, name: str) -> Case:
    """The most private memory of trainers and feeders, while the data grows tenfold."""
    kind = KINDS["floats32"]
    data = Cached.make(bench, kind)
    once = bench.times_for(lambda: drain(data.once))
    sums = data.sums * once
    samples: dict[str, list[float]] = {}
    with Feeding(bench, name, "tensors", kind.spec) as feed:
        executors = {node.executor.pid for node in feed.cluster.nodes}
        if not all(map(psutil.pid_exists, [*executors, *feed.trainers])):
            return Case(name, "memory of trainers and feeders", "MiB", {"trainer": []}, note="the nodes are on other machines")
        feed.feed(data.times(once), sums)
        for turn in range(bench.options.repeats + 1):
            for size, times in (("1x", 1), ("10x", 10)):
                with watching(feed.trainers, executors) as peak:
                    feed.feed(data.times(once * times), sums * times)
                for who in peak:
                    samples.setdefault(f"{who}, {size}", [])
                    if turn:
                        samples[f"{who}, {size}"].append(peak[who])
    data.once.unpersist()
    bars = [Bar(f"{who}, 10x", f"{who}, 1x", 1.1, most=True) for who in ("trainer", "feeder")]
    note = f"anonymous resident memory (the shared segment is not in it), the most of any process; 1x is {sums.rows} rows"
    return Case(name, "private memory of trainers and feeders when the data grows tenfold", "MiB", samples, bars, note)


@contextlib.contextmanager
def watching(trainer_pids: Iterable[int], executors: Iterable[int]) -> Iterator[dict[str, float]]:
    """The most MiB that a trainer and a Python worker of the executors take while the block runs."""
    peak = {"trainer": 0.0, "feeder": 0.0}
    stop = threading.Event()
    groups: dict[str, Callable[[], Iterable[int]]] = {
        "trainer": lambda: trainer_pids,
        "feeder": partial(_python_workers, list(executors)),
    }

    def look() -> None:
        for who, pids in groups.items():
            peak[who] = max([peak[who], *map(anonymous, pids())])

    def watch() -> None:
        while not stop.wait(0.1):
            look()

    thread = threading.Thread(target=watch)
    look()
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        look()


def _python_workers(executors: Iterable[int]) -> list[int]:
    """Spark's Python processes under these executors."""
    found = []
    for executor in executors:
        for child in psutil.Process(executor).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if any("pyspark" in part for part in child.cmdline()):
                    found.append(child.pid)
    return found


def anonymous(pid: int) -> float:
    """Resident memory of a process in MiB that is its own: no file, no shared segment. 0 when it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    return 0.0
