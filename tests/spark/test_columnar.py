"""Parquet files through tasks that read them, orders of partitions, and the Arrow batches of DataFrames, on two executors."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from pyspark import TaskContext
from pyspark.sql import SparkSession

import tfos_fast
from tests.spark import mains
from tests.spark.mains import note, noted
from tfos_fast.cluster.files.splits import Order
from tfos_fast.errors import SourceError

MASTER = "local-cluster[2,1,1024]"
SMALL = {"memory": "8m"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ids 0 to 11999 in four files of two directories and 24 row groups; ``x`` is four times the id."""
    root = tmp_path_factory.mktemp("data")
    for i in range(4):
        ids = np.arange(3000 * i, 3000 * (i + 1))
        x = pa.ListArray.from_arrays(np.arange(0, 12_001, 4, dtype=np.int32), np.repeat(ids, 4).astype(np.float32))
        (root / f"half={i // 2}").mkdir(exist_ok=True)
        pq.write_table(
            pa.table({"id": ids, "x": x, "name": [f"n{k}" for k in ids]}), root / f"half={i // 2}/{i}.parquet", row_group_size=500
        )
    return str(root)


def add_up(args, ctx):
    """Read tensors; leave the ids in the order in which they came and whether ``x`` belongs to them."""
    feed = ctx.get_data_feed()
    seen, fits = [], True
    for batch in feed.tensors(64):
        fits = fits and bool((batch["x"].numpy() == batch["id"].numpy()[:, None]).all())
        seen += batch["id"].numpy().tolist()
    note(args["out"], ctx, {"ids": seen, "fits": fits})


@pytest.mark.tensorflow
def test_tensors_from_files(sc, folder, out):
    data = tfos_fast.parquet(f"{folder}/half=*", columns=["x", "id"], splits=5)
    with tfos_fast.run(sc, add_up, {"out": out}, 2, **SMALL) as cluster:
        report = cluster.feed(data, epochs=2, shuffle=True)
    assert (report.rows, report.partitions, report.epochs) == (24_000, 10, 2)
    nodes = noted(out)
    assert all(node["fits"] for node in nodes.values())
    assert sorted(i for node in nodes.values() for i in node["ids"]) == sorted([*range(12_000)] * 2)


@pytest.mark.tensorflow
def test_rows_of_a_split_come_in_their_order(sc, folder, out):
    with tfos_fast.run(sc, add_up, {"out": out}, 1, **SMALL) as cluster:
        cluster.feed(tfos_fast.parquet(folder, columns=["x", "id"], splits=1))
    assert noted(out)[0] == {"ids": list(range(12_000)), "fits": True}


def test_rows_of_files_with_filters(sc, folder, out):
    data = tfos_fast.parquet(folder, columns=["id", "half", "name"], filters=(pc.field("id") >= 5900) & (pc.field("id") < 6100))
    with tfos_fast.run(sc, mains.collect, {"out": out}, 2, **SMALL) as cluster:
        assert cluster.feed(data).rows == 200
        assert cluster.feed(tfos_fast.parquet(folder, filters=[("id", "<", 0)])).rows == 0
        for wrong, message in ((f"{folder}/none", "none is there"), ([folder, f"{folder}/*.pq"], "no file matches")):
            with pytest.raises(SourceError, match=message):
                cluster.feed(tfos_fast.parquet(wrong))
        with pytest.raises(TypeError, match="not files"):
            cluster.infer(data)
    rows = [
        row if isinstance(row, dict) else dict(zip(("id", "half", "name"), row, strict=True))
        for n in noted(out).values()
        for row in n
    ]
    expected = [{"id": i, "half": int(i >= 6000), "name": f"n{i}"} for i in range(5900, 6100)]
    assert sorted(rows, key=lambda row: row["id"]) == expected


def test_values_that_cannot_be_fed_are_told_in_a_sentence(sc, out, tmp_path):
    pq.write_table(pa.table({"x": pa.array([2**60]).cast(pa.timestamp("ms"))}), tmp_path / "a.parquet")
    old = {b"org.apache.spark.legacyDateTime": b"", b"org.apache.spark.version": b"3.5.1"}
    day = pa.table({"x": pa.array([-200_000], pa.int32()).cast(pa.date32())})
    pq.write_table(day.replace_schema_metadata(old), tmp_path / "b.parquet")
    pq.write_table(pa.table({"x": np.random.default_rng(7).random(10_000)}), tmp_path / "c.parquet", use_dictionary=False)
    with open(tmp_path / "c.parquet", "r+b") as file:
        file.seek(2)
        file.write(bytes(60_000))
    wrong = {"a": ": column 'x' of timestamp", "b": ": column 'x' has a date before 1582-10-15", "c": " is damaged: "}
    with tfos_fast.run(sc, mains.collect, {"out": out}, 1, **SMALL) as cluster:
        for name, message in wrong.items():
            with pytest.raises(SourceError, match=rf"{name}\.parquet{message}") as raised:
                cluster.feed(tfos_fast.parquet(tmp_path / f"{name}.parquet"))
            assert len(str(raised.value).splitlines()) == 1
            assert raised.value.spark_error is None  # no task failed: Spark has logged nothing


class Deadly(fs.FileSystemHandler):
    """The local file system, seen by a process that is killed once, when it opens a file."""

    def __init__(self, marker, name):
        self.marker, self.name = marker, name
        self.local = fs.LocalFileSystem()

    def __reduce__(self):
        return Deadly, (self.marker, self.name)

    def open_input_file(self, path):
        task = TaskContext.get()
        if task is not None and path.endswith(self.name) and not os.path.exists(self.marker):
            open(self.marker, "w").close()
            time.sleep(0.5)  # let what was packed be published
            os.kill(os.getpid(), signal.SIGKILL)
        return pa.PythonFile(open(path, "rb"), mode="r")

    def get_file_info(self, paths):
        return self.local.get_file_info(paths)

    def get_file_info_selector(self, selector):
        return self.local.get_file_info(selector)

    def __eq__(self, other):
        return isinstance(other, Deadly)

    def get_type_name(self):
        return "deadly"

    def normalize_path(self, path):
        return path

    def open_input_stream(self, path):
        return self.open_input_file(path)

    def _no(self, *_):
        raise NotImplementedError

    copy_file = create_dir = delete_dir = delete_dir_contents = delete_file = delete_root_dir_contents = move = _no
    open_append_stream = open_output_stream = _no


@pytest.mark.parametrize("filters", [None, pc.equal(pc.bit_wise_and(pc.field("id"), 1), 0)])
def test_a_task_killed_between_files_goes_on_where_it_was(sc, folder, out, tmp_path, filters):
    marker = str(tmp_path / "killed")
    system = fs.PyFileSystem(Deadly(marker, "1.parquet"))
    data = tfos_fast.parquet(folder, ["id"], filters, filesystem=system, splits=1)
    with tfos_fast.run(sc, mains.collect, {"out": out, "batch": 10}, 2, memory="256k", slot_bytes="4k") as cluster:
        report = cluster.feed(data)
    assert os.path.exists(marker)
    expected = list(range(0, 12_000, 1 if filters is None else 2))
    assert report.rows == len(expected)
    rows = [row["id"] if isinstance(row, dict) else row[0] for node in noted(out).values() for row in node]
    assert sorted(rows) == expected


def workers():
    """Python workers of Spark: children of its daemons."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # or a zombie
            parent = process.parent()
            if parent is not None and all("pyspark.daemon" in each.cmdline() for each in (process, parent)):
                found.add(process.pid)
    return found


@pytest.mark.parametrize("kind", ["files", "stored", "made", "frame"])
def test_python_workers_go_on_from_task_to_task(sc, folder, out, kind):
    """One that leaves some of its input is ended by Spark, and the next one imports everything anew."""
    data = {
        "files": lambda: tfos_fast.parquet(folder, columns=["id"], splits=6),
        "stored": lambda: sc.parallelize(range(600), 6).map(lambda i: {"id": i}).cache(),
        "made": lambda: sc.parallelize(range(600), 6).map(lambda i: {"id": i}),
        "frame": lambda: SparkSession.builder.getOrCreate().range(600, numPartitions=6),
    }[kind]()
    with tfos_fast.run(sc, mains.collect, {"out": out}, 2, **SMALL) as cluster:
        cluster.feed(data, epochs=2)
        before = workers()
        cluster.feed(data, epochs=2)
        assert workers() == before
        assert before


def launched(index, rows):
    """The partition's rows with the attempt id of their task: these grow in the order of the launches."""
    attempt = TaskContext.get().taskAttemptId()
    return ((index, attempt, row) for row in rows)


def orders(rows, epochs, partitions):
    """Per epoch, the order in which partitions were launched."""
    starts = [partition for _, partition in sorted({(attempt, partition) for partition, attempt, _ in rows})]
    assert len(starts) == epochs * partitions
    return [starts[partitions * e : partitions * (e + 1)] for e in range(epochs)]


def test_a_new_order_of_partitions_in_each_epoch(sc, out):
    rdd = sc.parallelize(range(120), 12).mapPartitionsWithIndex(launched)
    with tfos_fast.run(sc, mains.collect, {"out": out}, 2, **SMALL) as cluster:
        cluster.feed(rdd, epochs=2, shuffle=True, seed=7)
        cluster.feed(rdd, shuffle=True, seed=7)
        cluster.feed(rdd)
        cluster.feed(sc.emptyRDD(), shuffle=True)
    rows = [row for node in noted(out).values() for row in node]
    assert sorted(row for _, _, row in rows) == sorted([*range(120)] * 4)
    first, second, again, plain = orders(rows, 4, 12)
    assert first == again == Order(7, 0).of(12)
    assert second == Order(7, 1).of(12) != first
    assert plain == list(range(12))


def test_orders_of_stored_rows_and_dataframes(sc, out):
    frame = SparkSession.builder.getOrCreate().range(1000, numPartitions=5).selectExpr("id", "1 as kind")
    stored = sc.parallelize(range(1000), 5).map(lambda i: {"id": i, "kind": 0}).cache()
    with tfos_fast.run(sc, mains.collect, {"out": out}, 2, **SMALL) as cluster:
        for data in (stored, frame):
            report = cluster.feed(data, epochs=2, shuffle=True, seed=1)
            assert (report.rows, report.partitions) == (2000, 10)
    seen = {node: [as_pair(row) for row in rows] for node, rows in noted(out).items()}
    assert sorted(pair for pairs in seen.values() for pair in pairs) == sorted(
        [(i, kind) for i in range(1000) for kind in (0, 1)] * 2
    )
    for pairs in seen.values():  # inside a partition the order is kept
        for begin in range(0, 1000, 200):
            for kind in (0, 1):
                mine = [i for i, k in pairs if k == kind and begin <= i < begin + 200]
                assert mine in ([], [*range(begin, begin + 200)], [*range(begin, begin + 200)] * 2)


def as_pair(row):
    return (row["id"], row["kind"]) if isinstance(row, dict) else tuple(row)


def test_columns_that_are_not_selected_stay_in_the_files(sc, folder):
    from tfos_fast.cluster.spark.dataframe import in_small_batches

    frame = SparkSession.builder.getOrCreate().read.parquet(folder).select("id")
    tasks = in_small_batches(sc, frame).mapInArrow(lambda batches: batches, frame.schema)
    assert "ReadSchema: struct<id:bigint>" in tasks._jdf.queryExecution().executedPlan().toString()


def test_arrow_batches_of_dataframes_are_small_and_settings_stay(sc):
    from tfos_fast.cluster.spark.dataframe import in_small_batches

    def sizes(frame):
        def count(batches):
            for batch in batches:
                yield pa.RecordBatch.from_pydict({"rows": pa.array([batch.num_rows], pa.int64())})

        return [row.rows for row in frame.mapInArrow(count, "rows long").collect()]

    session = SparkSession.builder.getOrCreate()
    active = SparkSession.getActiveSession()
    frame = session.range(2000, numPartitions=1).selectExpr("id", "array_repeat(cast(id as float), 784) as x").cache()
    small = in_small_batches(sc, frame)
    assert sizes(frame) == [2000]
    assert sum(sizes(small)) == 2000
    assert max(sizes(small)) <= 1024
    assert small.orderBy("id").take(1) == frame.orderBy("id").take(1)
    assert SparkSession.getActiveSession() is active
    assert SparkSession.builder.getOrCreate() is session
    assert session.conf.get("spark.sql.execution.arrow.maxRecordsPerBatch") == "10000"
    session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "150")
    session.conf.set("spark.sql.execution.arrow.maxBytesPerBatch", "64m")  # Spark before 4.1 does not mind
    try:
        assert max(sizes(in_small_batches(sc, frame))) == 150  # what the user says holds
    finally:
        session.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
        session.conf.unset("spark.sql.execution.arrow.maxBytesPerBatch")
