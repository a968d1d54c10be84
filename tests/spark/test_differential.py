"""One way against another: what a program sees of every Spark SQL type, and gives back, against ``collect()``.

A failure names the path and the types that differ. A short cut of it runs always; ``make test-long`` has every
type and time zone.
"""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql.types import StructType

import tfos_fast
from tests.spark import inprocess, sparks
from tests.spark.alltypes import FEW, canonical, frame_of
from tfos_fast.cluster.driver.source import _session_settings, engine_of

MASTER = "local[2]"
HERE = "America/New_York"  # of the driver and the executors: ``collect()`` and rows have local time
_ALWAYS = {"spark.executorEnv.TZ": HERE, "spark.sql.shuffle.partitions": "1", "spark.sql.timeType.enabled": "true"}
ZONES = ["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Apia"]  # of the session


def serve(args, ctx):
    """Do with each row what its first value says."""
    feed = ctx.get_data_feed(train_mode=False)
    while not feed.should_stop():
        rows = feed.next_batch(7)
        fed = [row for row in rows if row[0] == "note"]
        if fed:
            with open(args["out"], "ab") as out:
                pickle.dump(fed, out)
        results = [ANSWERS[row[0]](row) for row in rows if row[0] != "note"]
        if results:
            feed.batch_results(results)


ANSWERS = {
    "same": lambda row: row,
    "pickle": lambda row: pickle.dumps(row),
    "row": lambda row: Row(**dict(zip(row.__fields__[1:], row[1:], strict=True))),
    "tuple": lambda row: tuple(row[1:]),
    "value": lambda row: row[1],
    "done": lambda row: "done",
}


@pytest.fixture(autouse=True)
def no_leaks():
    """Workers of Spark that go on from test to test keep the cluster's memory; ``nothing_left`` looks when all is over."""


@pytest.fixture(scope="module")
def sc(nothing_left):
    """A Spark whose processes are all in one time zone, which is not UTC."""
    sparks.close_shared()
    before = os.environ.get("TZ")
    os.environ["TZ"] = HERE
    time.tzset()
    try:
        with sparks.spark(MASTER, **_ALWAYS) as made:
            yield made
    finally:
        os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
        time.tzset()


@pytest.fixture(scope="module")
def session(sc):
    return SparkSession(sc)


@pytest.fixture(scope="module")
def cluster(sc, tmp_path_factory):
    noted = tmp_path_factory.mktemp("noted") / "rows"
    with tfos_fast.run(sc, serve, {"out": str(noted)}, 1, memory="32m") as made:
        yield made, noted


class Frames:
    """The frame of each time zone, made once."""

    def __init__(self, session, names):
        self.session, self.names, self.made = session, names, {}

    def __getitem__(self, zone):
        self.session.conf.set("spark.sql.session.timeZone", zone)
        if zone not in self.made:
            frame, labels = frame_of(self.session, self.names)
            self.made[zone] = frame, labels, frame.collect()
        return self.made[zone]


@pytest.fixture(scope="module")
def few(session):
    return Frames(session, FEW)


@pytest.fixture(scope="module")
def all_types(session):
    return Frames(session, None)


# ---- the paths: each gives the columns of a frame as they came through ----


def told(how, frame):
    """The frame with the word that says what the program does with a row."""
    return frame.selectExpr(f"'{how}' as how", *[name for name in frame.columns if name != "row"])


def rows_of_rdd(cluster, frame, tmp_path):
    """Rows that Python made."""
    return [row[1:] for row in cluster[0].infer(told("same", frame).rdd.map(lambda row: row)).collect()]


def stored_rows(cluster, frame, tmp_path):
    """Rows that Spark stores pickled."""
    rows = told("same", frame).collect()
    return [row[1:] for row in cluster[0].infer(frame.sparkSession.sparkContext.parallelize(rows, 1)).collect()]


def jvm_rows(cluster, frame, tmp_path):
    """Rows that the JVM pickles."""
    return [row[1:] for row in cluster[0].infer(told("same", frame).rdd).collect()]


def arrow_rows(cluster, frame, tmp_path):
    """Rows of a DataFrame."""
    results = cluster[0].infer(told("pickle", frame), schema="p binary").collect()
    return [pickle.loads(bytes(row.p))[1:] for row in results]


def parquet_rows(cluster, frame, tmp_path):
    """Rows of files that Spark wrote."""
    folder = str(tmp_path / "files")
    told("note", frame).write.parquet(folder)
    cluster[1].unlink(missing_ok=True)
    count = frame.count()
    assert cluster[0].feed(tfos_fast.parquet(folder, splits=1)).rows == count
    deadline = time.monotonic() + 30
    while len(rows := noted(cluster[1])) < count:
        assert time.monotonic() < deadline, "the program did not note its rows"
        time.sleep(0.05)
    return [row[1:] for row in rows]


def replayed_rows(cluster, frame, tmp_path):
    """Rows that a node keeps for another epoch."""
    cluster[1].unlink(missing_ok=True)
    count = frame.count()
    assert cluster[0].feed(told("note", frame), epochs=2, keep="memory").rows == 2 * count
    deadline = time.monotonic() + 30
    while len(rows := noted(cluster[1])) < 2 * count:
        assert time.monotonic() < deadline, "the program did not note its rows"
        time.sleep(0.05)
    return [row[1:] for row in rows[count:]]


def remote_rows(cluster, frame, tmp_path):
    """Rows of a DataFrame that come over the network."""
    batches = inprocess.batches_of(told("note", frame))
    return [row[1:] for row in inprocess.rows_read(lambda writer: writer.write_batches(batches), remote=True)]


def remote_python_rows(cluster, frame, tmp_path):
    """Rows that Python made and that come over the network."""
    rows = told("note", frame).collect()
    return [row[1:] for row in inprocess.rows_read(lambda writer: writer.write_rows(rows), remote=True)]


def remote_results(cluster, frame, tmp_path):
    """Results that go back over the network."""
    columns = frame.drop("row")
    results = inprocess.results_read(inprocess.batches_of(columns), columns.schema, remote=True)

    def give(batches):
        for _ in batches:
            yield from results.to_batches()

    return [tuple(row) for row in frame.sparkSession.range(1, numPartitions=1).mapInArrow(give, columns.schema).collect()]


def noted(path: Path):
    rows = []
    if path.exists():
        with open(path, "rb") as file:
            while file.peek(1):
                try:
                    rows += pickle.load(file)
                except EOFError:  # the rest is being written
                    break
    return rows


def named_results(cluster, frame, tmp_path):
    """Results by names, as columns of the frame's own types."""
    schema = StructType([field for field in frame.schema if field.name != "row"])
    return [tuple(row) for row in cluster[0].infer(told("row", frame), schema=schema).collect()]


def results_by_position(cluster, frame, tmp_path):
    """Results that are tuples."""
    schema = StructType([field for field in frame.schema if field.name != "row"])
    if len(schema) == 1:
        pytest.skip("a tuple is the value of a single column")
    return [tuple(row) for row in cluster[0].infer(told("tuple", frame), schema=schema).collect()]


def single_results(cluster, frame, tmp_path):
    """Results of one column each, bare."""
    columns = [name for name in frame.columns if name != "row"]
    found = []
    for name in columns:
        schema = StructType([frame.schema[name]])
        found.append([row[0] for row in cluster[0].infer(told("value", frame.select(name)), schema=schema).collect()])
    return list(zip(*found, strict=True))


def kept_columns(cluster, frame, tmp_path):
    """Columns that go around the program."""
    keep = [name for name in frame.columns if name != "row"]
    results = cluster[0].infer(told("done", frame), schema="done string", columns=["how"], keep=keep)
    return [tuple(row)[:-1] for row in results.collect()]


PATHS = [
    rows_of_rdd, stored_rows, jvm_rows, arrow_rows, parquet_rows, named_results, results_by_position, single_results, kept_columns,
    replayed_rows, remote_rows, remote_python_rows, remote_results,
]  # fmt: skip


# ---- the ways into columns: each gives what writes one column of a frame ----


def columns_of_frame(frame, rows, tmp_path):
    batches = inprocess.batches_of(frame)
    return lambda writer, name: writer.write_batches([batch.select([name]) for batch in batches])


def columns_of_files(frame, rows, tmp_path):
    folder = str(tmp_path / "files")
    frame.write.parquet(folder)
    splits, reader = tfos_fast.parquet(folder, splits=1).plan(1, _session_settings(engine_of(frame.sparkSession)))
    batches = [batch for split in splits for batch in reader.batches(split, 2**20)]
    return lambda writer, name: writer.write_batches([batch.select([name]) for batch in batches])


def columns_of_rows(frame, rows, tmp_path):
    return lambda writer, name: writer.write_rows([Row(**{name: row[name]}) for row in rows])


def columns_of_pickled_rows(frame, rows, tmp_path):
    return lambda writer, name: writer.write_pickled([pickle.dumps([Row(**{name: row[name]}) for row in rows])])


WAYS = [columns_of_frame, columns_of_files, columns_of_rows, columns_of_pickled_rows]


def is_other_in_rows(label):
    """Rows of Python are other columns here: dicts are structs, times without a zone local, lists with None hold what they held."""
    return "map" in label or "timestamp_ntz" in label or label.startswith("array")


def compare_columns(way, made, tmp_path, *, remote=False):
    frame, labels, expected = made
    write = way(frame, expected, tmp_path)
    failed = {}
    for name, label in labels.items():
        if "rows" in way.__name__ and is_other_in_rows(label):
            continue
        wanted = inprocess.columns_by_rows(frame.select(name).schema, [Row(row[name]) for row in expected])
        try:
            found = inprocess.columns_read(lambda writer, name=name: write(writer, name), remote=remote)
        except Exception as error:
            failed[label] = f"{type(error).__name__}: {error!s:.300}"
            continue
        if list(found) != list(wanted):
            failed[label] = f"columns {list(found)} in place of {list(wanted)}"
            continue
        for want, got in ((want, got) for part in wanted for want, got in zip(wanted[part], found[part], strict=True)):
            if sides(label, want) != sides(label, got):
                failed.setdefault(label, f"{got!r:.150} in place of {want!r:.150}")
    assert not failed, f"{way.__name__}: " + "\n".join(f"{label}: {text}" for label, text in failed.items())


def sides(label, value):
    """What is compared: a map of the JVM has no order."""
    value = canonical(value)
    return sorted(value[1]) if label.startswith("map") and value[0] == "list" else value


def compare(path, cluster, made, tmp_path):
    """Send a frame along a path; where that fails, each type alone, so that the message says which."""
    frame, labels, expected = made
    failed = {}
    try:
        found = path(cluster, frame, tmp_path)
        failed = differences(frame, labels, expected, found)
    except Exception:
        for column, label in labels.items():
            one = frame.select("row", column)
            try:
                found = path(cluster, one, tmp_path / column)
                failed |= differences(one, {column: label}, [Row(row=row.row, x=row[column]) for row in expected], found)
            except Exception as error:
                lines = [line for line in str(error).splitlines() if line.strip()]
                ours = [line for line in lines if "tfos_fast.errors" in line or "Error" in line]
                failed[label] = f"{type(error).__name__}: {(ours or lines or [''])[-1]:.300}"
    assert not failed, f"{path.__name__}: " + "\n".join(f"{label}: {text}" for label, text in failed.items())


def differences(frame, labels, expected, found):
    assert len(found) == len(expected)
    columns = [name for name in frame.columns if name != "row"]
    failed = {}
    for i, column in enumerate(columns):
        for want, got in zip(expected, found, strict=True):
            if canonical(want[i + 1]) != canonical(got[i]):
                failed.setdefault(labels[column], f"{got[i]!r:.150} in place of {want[i + 1]!r:.150}")
    return failed


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_some_types_in_one_time_zone(cluster, few, tmp_path, path):
    compare(path, cluster, few["Asia/Kolkata"], tmp_path)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
@pytest.mark.parametrize("zone", ZONES)
def test_every_type_in_every_time_zone(cluster, all_types, tmp_path, path, zone):
    compare(path, cluster, all_types[zone], tmp_path)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_columns_of_some_types(few, tmp_path, way):
    compare_columns(way, few["Asia/Kolkata"], tmp_path)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("remote", [False, True], ids=["here", "remote"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_columns_of_every_type(all_types, tmp_path, way, remote):
    compare_columns(way, all_types["America/New_York"], tmp_path, remote=remote)
