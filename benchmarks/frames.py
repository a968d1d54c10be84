"""Cases that feed DataFrames, and the same columns as Parquet files without the JVM."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tfos_fast
from benchmarks.bench import Bench, Feeding, count_in_arrow
from benchmarks.report import Bar, Case
from benchmarks.rows import Sums

TENSORS, PARQUET, COUNT = "feed.tensors(256), DataFrame", "feed.tensors(256), Parquet", "count by mapInArrow"
FILES = 8  # for each executor: tasks that end at different times leave no core idle for long

ARRAY = ["transform(sequence(0, 783), k -> cast((id * 31 + k) % 255 as float)) as x", "cast(id % 10 as int) as y"]
COLUMNS = [f"cast(id % 255 + {k} as float) as c{k}" for k in range(11)]
# Columns, and about how many rows a second the JVM makes of them: says how many there have to be.
FRAMES = {
    "frame-array": ("array<float>[784], int", ARRAY, 93_000),
    "frame-columns": ("11 float columns", COLUMNS, 2_800_000),
}


def _sums(batches: Iterator[Any]) -> Iterator[Any]:
    """For ``mapInArrow``: the sums of a partition's columns, as decimal text, since Spark has no unsigned words."""
    import pyarrow as pa

    found = Sums()
    for batch in batches:
        if batch.num_rows:
            arrays = [column.flatten() if pa.types.is_list(column.type) else column for column in batch.columns]
            found = found.add([array.to_numpy().reshape(batch.num_rows, -1) for array in arrays])
    yield pa.RecordBatch.from_pydict({"rows": [found.rows], "sums": [" ".join(map(str, found.columns))]})


def frame(bench: Bench, name: str) -> Case:
    """A DataFrame read from Parquet files, and the files themselves."""
    from pyspark.sql import SparkSession

    title, columns, speed = FRAMES[name]
    session = SparkSession(bench.sc)
    files = FILES * bench.options.executors
    rows = bench.count(round(speed * bench.options.seconds / files) * files)
    with tempfile.TemporaryDirectory(prefix="tfos-bench-data-", ignore_cleanup_errors=True) as folder:
        path = f"{bench.options.data or Path(folder).as_uri()}/tfos-fast-{name}.parquet"
        session.range(rows, numPartitions=files).selectExpr(*columns).write.mode("overwrite").parquet(path)
        data = session.read.parquet(path)
        sums = Sums()
        for row in data.mapInArrow(_sums, "rows long, sums string").collect():
            sums = sums + Sums(row["rows"], tuple(map(int, row["sums"].split())))
        with Feeding(bench, name) as feed:

            def frames(times: int) -> Any:
                return functools.reduce(lambda one, other: one.union(other), [data] * times)

            samples, note = bench.rates(
                {
                    COUNT: lambda times: count_in_arrow(frames(times)),
                    TENSORS: lambda times: feed.feed(frames(times), sums * times),
                    PARQUET: lambda times: feed.feed(tfos_fast.parquet([path] * times), sums * times),
                },
                sums.rows,
            )
    bars = [Bar(TENSORS, COUNT, 0.9), Bar(PARQUET, COUNT, 3.0)]
    about = f"{title}: Parquet files read by Spark, and by tfos_fast.parquet"
    return Case(name, about, "rows/s", samples, bars, note)
