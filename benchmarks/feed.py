"""Feeding a cluster against Spark's own iteration of the same data, case by case, each with the bar it has to reach.

Everything is measured in one run on one cluster, and the ways of a case take turns. Trainers sum every column of every batch, and
the sums are compared with the source.

    python -m benchmarks feed [--only 'floats*,infer'] [--json FILE]
    python -m benchmarks feed --master spark://host:7077 --data hdfs://host/tmp

A cluster of yours needs tfos_fast, TensorFlow and Spark in the Python of its workers (PYSPARK_PYTHON), and a directory for Parquet
files (--data) that driver and executors reach by the same name.
"""

from __future__ import annotations

import argparse
import fnmatch
import logging
from collections.abc import Callable
from pathlib import Path

from benchmarks import frames, others, rdds
from benchmarks.bench import Bench
from benchmarks.collector import Collector
from benchmarks.machine import machine, show
from benchmarks.report import Case, Report
from benchmarks.spark import context, driver_host
from benchmarks.tfos import process

log = logging.getLogger("benchmarks")

CASES: dict[str, Callable[[Bench, str], Case]] = {
    "floats32": rdds.stored,
    "floats64": rdds.stored,
    "pictures": rdds.stored,
    "tens": rdds.stored,
    "lambda": rdds.made_by_python,
    "frame-array": frames.frame,
    "frame-columns": frames.frame,
    "replay": rdds.replay,
    "channel-4m": others.channel_alone,
    "channel-1m": others.channel_alone,
    "infer": others.infer,
    "first-batch": others.first_batch,
    "next-batch-1": others.next_batch_1,
    "lifecycle": others.lifecycle,
    "memory": others.memory,
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", default="*", help=f"names of cases with commas between, * and ? are wildcards: {', '.join(CASES)}")
    add("--repeats", type=int, default=5, help="samples of each figure (default %(default)s)")
    add("--seconds", type=float, default=5.0, help="about how long the slower runs of a case take (default %(default)g)")
    add("--quick", action="store_true", help="little data, one sample: whether it works; the figures mean nothing")
    add("--profile", action="store_true", help="count the CPU time of each kind of process, too (of those on this machine)")
    add("--json", type=Path, help="write everything, raw samples and the machine included, to this file")
    add("--master", help="a running Spark cluster, such as spark://host:7077 (default: a local-cluster)")
    add("--executors", type=int, default=2, help="executors of one core, and nodes (default %(default)s)")
    add("--executor-mib", type=int, default=2048, help="memory of an executor's JVM (default %(default)s)")
    add("--memory", default="256m", help="shared memory of each node (default %(default)s)")
    add("--data", help="URL of a directory for Parquet files (default: a temporary one of this machine)")
    add("--tfos", metavar="PYTHON", help="measure TensorFlowOnSpark, too, by this interpreter (scripts/tfos-env.sh makes it)")
    add("--conf", action="append", default=[], metavar="NAME=VALUE", help="further settings of Spark")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.seconds, options.memory = 1, 0.2, "32m"
    if options.master and options.tfos:
        parser.error("--tfos measures on this machine, and --master elsewhere: the figures could not be compared")
    if options.master and not options.data and chosen(options.only) & set(frames.FRAMES):
        parser.error("with --master the cases frame-* need --data, a directory that all machines reach")
    if not chosen(options.only):
        parser.error(f"no case is named {options.only!r}: {', '.join(CASES)}")
    return options


def chosen(only: str) -> set[str]:
    """Names of the cases that this selects."""
    return {name for pattern in only.split(",") for name in fnmatch.filter(CASES, pattern.strip())}


def beside(report: Report, names: list[str], options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """What TensorFlowOnSpark does in the same cases; measured before our own Spark starts, so that neither disturbs the other."""
    try:
        found = process.measure(options.tfos, names, options)
    except process.TfosFailed as error:
        report.fail("TensorFlowOnSpark", error)
        return {}
    report.content["tensorflowonspark"] = {"versions": found["versions"], "processes left behind": found["left"]}
    print("TensorFlowOnSpark:", "; ".join(f"{name} {value}" for name, value in found["versions"].items()), flush=True)
    return found["samples"]


def main() -> None:
    options = arguments()
    names = [name for name in CASES if name in chosen(options.only)]
    facts = machine("numpy", "pyarrow", "pyspark", "tensorflow", "pyzmq")
    show(facts)
    told = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    report = Report(facts, told, options.json)
    tfos = beside(report, names, options) if options.tfos else {}
    with context(options.master, options.executors, options.executor_mib, options.conf) as sc:
        collector = Collector(driver_host(sc))
        bench = Bench(sc, options, collector, tfos)
        try:
            for name in names:
                try:
                    bench.cpu = {}
                    case = CASES[name](bench, name)
                    case.cpu = bench.cpu
                    report.add(case)
                except Exception as error:  # the other cases are still worth their figures
                    log.exception("case %s failed", name)
                    report.fail(name, error)
        finally:
            collector.close()
    report.summary()
    if report.content["failed"]:
        raise SystemExit(1)
