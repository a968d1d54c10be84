"""Types of Parquet files: what a feed of the files hands out is what ``spark.read.parquet`` has. Spark itself is asked."""

from __future__ import annotations

import pickle
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
from pyspark.ml.linalg import Matrices, Vectors
from pyspark.sql import SparkSession

import tfos_fast
from tests.spark import mains
from tests.support.arrow_batches import feed, rows_of
from tfos_fast.channel.codec import decode
from tfos_fast.cluster.driver.source import _session_settings, engine_of
from tfos_fast.errors import SourceError

MASTER = "local-cluster[2,1,1024]"

FAR = "timestamp'9999-12-31 00:00:00'"
EARLY = "timestamp'0001-01-03 00:00:00'"
TIMES = {
    "now": "timestamp'2020-01-01 00:00:00.123456'", "far": FAR, "early": EARLY, "none": "cast(null as timestamp)",
    "list": f"array({FAR}, null, {EARLY})", "struct": f"struct({EARLY} as t, interval '1' day as i)", "map": f"map('a', {FAR})",
    "key": "map(timestamp'2020-01-01 00:00:00', 1)",
}  # fmt: skip
OTHERS = {
    "ntz": "timestamp_ntz'9999-12-31 00:00:00'", "early_ntz": "timestamp_ntz'0001-01-01 00:00:00'", "date": "date'0001-01-01'",
    "far_date": "date'9999-12-31'", "interval": "interval '-1 02:03:04.5' day to second", "day": "interval '1' day",
    "intervals": "array(interval '1' hour)", "byte": "-1Y", "short": "2S", "int": "3", "long": "4L", "float": "cast(1.5 as float)",
    "double": "1.5D", "decimal": "1.5BD", "wide": "cast(1.5 as decimal(38,10))", "binary": "x'00ff'", "bool": "true",
    "char": "cast('x' as char(3))",
    "text": "'\u00e9'", "nested": "map(1, array(struct(date'2020-01-01' as d)))", "binaries": "array(x'00', x'ff')",
    "null": "cast(null as int)", "lists": "array(array(1,2),array(3))", "texts": "array('a','b')",
    "structs": "array(struct(1 as a, 'x' as b), null)",
}  # fmt: skip
ZONES = ["UTC", "America/New_York", "Asia/Kathmandu"]


@pytest.fixture
def session(sc):
    session = SparkSession.builder.getOrCreate()
    before = {name: session.conf.get(name) for name in ("spark.sql.session.timeZone", "spark.sql.parquet.outputTimestampType")}
    yield session
    for name, value in before.items():
        session.conf.set(name, value)


@pytest.fixture
def zone(request, session, monkeypatch):
    """Spark's session and this process are in a time zone."""
    session.conf.set("spark.sql.session.timeZone", request.param)
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def batches(path, session, **arguments):
    """What the tasks would read."""
    splits, reader = tfos_fast.parquet(path, **arguments).plan(1, _session_settings(engine_of(session)))
    return [batch for split in splits for batch in reader.batches(split, 2**16)]


def columns_of(batches):
    """Column mode: element type and values of each column."""
    found = {}
    for form, memory, count in feed(batches, exact=False):
        for name, column in decode.columns(form, memory, 0, count).items():
            found.setdefault(name, []).append((str(getattr(column, "dtype", "")), repr(column.tolist())))
    return found


def arrow_of(frame):
    return frame.toArrow().to_batches() if hasattr(frame, "toArrow") else frame._collect_as_arrow()


@pytest.mark.parametrize("stored", ["INT96", "TIMESTAMP_MICROS", "TIMESTAMP_MILLIS"])
@pytest.mark.parametrize("zone", ZONES, indirect=True)
def test_values_are_those_of_the_dataframe(session, zone, tmp_path, stored):
    session.conf.set("spark.sql.parquet.outputTimestampType", stored)
    wanted = {**TIMES, **(OTHERS if stored == "INT96" else {})}
    session.sql("select " + ", ".join(f"{kind} as {name}" for name, kind in wanted.items())).write.parquet(str(tmp_path / "x"))
    frame = session.read.parquet(str(tmp_path / "x"))
    found = batches(tmp_path / "x", session)
    assert repr(rows_of(feed(found, exact=True))) == repr(frame.collect())
    assert columns_of(found) == columns_of(arrow_of(frame))


def test_row_mode_through_a_cluster(sc, session, out, tmp_path):
    frame = session.sql(f"select id, {FAR} as far, {EARLY} as early, array({FAR}) as l from range(3)")
    frame.coalesce(1).write.parquet(str(tmp_path / "x"))
    with tfos_fast.run(sc, mains.keep, {"out": out}, 1, memory="8m") as cluster:
        cluster.feed(tfos_fast.parquet(tmp_path / "x"))
    assert mains.kept(out) == session.read.parquet(str(tmp_path / "x")).collect()


SINGLE = [
    "1", "+1", "007", "2147483648", "9223372036854775808", "1" * 38, "1" * 39, "1.5", ".5", "5.",
    "1e5", "1d", "Infinity", "inf", "0x1p3",
    "true", "2020-01-02", "2020-1-2", "2020-02-30", "20200102", "2020-01-02 03:04:05", "2020-01-02 03%3A04%3A05.1",
    "2020-01-02T03:04:05", "2020-03-08 02:30:00", "2020-11-01 01:30:00", "__HIVE_DEFAULT_PARTITION__", "a%20b", "1%2E5", " 1",
    "0001-01-01",
]  # fmt: skip
TOGETHER = [
    ("1", "2147483648", "1.5"), ("1", "1.5"), ("1" * 20, "1"), ("2020-01-02", "2020-01-02 03:04:05"), ("1", "x"),
    ("2020-01-02", "__HIVE_DEFAULT_PARTITION__"), ("1.5", "1" * 20), ("2147483648", "1.5"),
]  # fmt: skip
COLUMNS = [*((raw,) for raw in SINGLE), *TOGETHER]
SAME = {"int": "int32", "bigint": "int64", "timestamp": "timestamp[us, tz=UTC]", "date": "date32[day]", "void": "null"}


def types_of(frame):
    """Spark's names of the types, and Arrow's of those that both call the same."""
    for field in frame.schema:
        name = field.dataType.simpleString()
        yield name, name.replace("decimal(", "decimal128(").replace(",", ", ")


@pytest.mark.parametrize("infer", ["true", "false"])
@pytest.mark.parametrize("zone", ["America/New_York"], indirect=True)
def test_directory_columns_are_those_of_the_dataframe(session, zone, tmp_path, infer):
    setting = "spark.sql.sources.partitionColumnTypeInference.enabled"
    session.conf.set(setting, infer)
    try:
        for number in range(3):
            folder = tmp_path.joinpath(*(f"c{i}={raws[number % len(raws)]}" for i, raws in enumerate(COLUMNS)))
            folder.mkdir(parents=True)
            pq.write_table(pa.table({"n": [number]}), folder / "a.parquet")
        frame = session.read.parquet(str(tmp_path)).coalesce(1).orderBy("n")
        found = sorted(batches(tmp_path, session), key=lambda batch: batch["n"][0].as_py())
        assert repr(rows_of(feed(found, exact=True))) == repr(frame.collect())
        assert [str(kind) for kind in found[0].schema.types] == [SAME.get(name, str(kind)) for name, kind in types_of(frame)]
    finally:
        session.conf.unset(setting)


def test_days_of_the_old_calendar(session, tmp_path):
    settings = {f"spark.sql.parquet.{name}RebaseModeInWrite": "LEGACY" for name in ("datetime", "int96")}
    for name, value in settings.items():
        session.conf.set(name, value)
    try:
        for stored in ("INT96", "TIMESTAMP_MICROS"):
            session.conf.set("spark.sql.parquet.outputTimestampType", stored)
            for kind, new in ((EARLY, 0), ("timestamp'1900-01-02'", 1), ("date'1582-10-04'", 0), ("date'1582-10-15'", 1)):
                path = tmp_path / stored / kind
                session.sql(f"select {kind} as x").write.parquet(str(path))
                if new:
                    assert rows_of(feed(batches(path, session), exact=True)) == session.read.parquet(str(path)).collect()
                    continue
                with pytest.raises(SourceError, match=r"column 'x' has a .* before .* wrote it in the old calendar"):
                    batches(path, session)
    finally:
        for name in settings:
            session.conf.unset(name)


def test_files_that_differ(session, tmp_path):
    path = str(tmp_path / "x")
    first = "1Y as a, struct(1 as p) as s, cast(1.5 as decimal(4,1)) as d"
    for part in (first, "3L as a, struct(2 as q) as s, 'x' as t, cast(1.25 as decimal(9,2)) as d"):
        session.sql(f"select {part}").write.mode("append").parquet(path)
    rows = {row["a"]: row for row in rows_of(feed(batches(path, session), exact=True))}
    assert set(rows) == {1, 3}
    assert (rows[1].s.p, rows[1].s.q, rows[1].t, str(rows[1].d)) == (1, None, None, "1.50")
    assert (rows[3].s.p, rows[3].s.q, rows[3].t, str(rows[3].d)) == (None, 2, "x", "1.25")


def test_types_of_users(session, tmp_path):
    vectors = [(Vectors.dense(1, 2), [Vectors.dense(3, 4)]), (Vectors.sparse(2, [1], [3.0]), [])]
    session.createDataFrame(vectors, ["x", "l"]).coalesce(1).write.parquet(str(tmp_path / "v"))
    session.createDataFrame([(Matrices.dense(1, 2, [1, 2]),)], ["m"]).coalesce(1).write.parquet(str(tmp_path / "m"))
    assert columns_of(batches(tmp_path / "v", session, columns=["x"])) == {"x": [("float64", "[[1.0, 2.0], [0.0, 3.0]]")]}
    for name in ("v", "m"):
        frame = session.read.parquet(str(tmp_path / name))
        wanted = pickle.loads(pickle.dumps(frame.collect()))  # pickling makes a number of a matrix's isTransposed
        assert repr(rows_of(feed(batches(tmp_path / name, session), exact=True))) == repr(wanted)


@pytest.mark.skipif(pyspark.__version__ < "4.0", reason="VARIANT is of Spark 4.0")
def test_variant(session, tmp_path):
    setting = "spark.sql.variant.writeShredding.enabled"
    before = session.conf.get(setting, None)
    try:
        for shredded in ("false", "true"):
            session.conf.set(setting, shredded)
            path = str(tmp_path / shredded)
            session.sql("select parse_json('{\"a\":1}') as v, array(parse_json('2'), null) as l, 7 as n").write.parquet(path)
            if shredded == "false":
                assert repr(rows_of(feed(batches(path, session), exact=True))) == repr(session.read.parquet(path).collect())
    finally:
        session.conf.set(setting, before) if before is not None else session.conf.unset(setting)


@pytest.mark.skipif(pyspark.__version__ < "4.1", reason="GEOMETRY is of Spark 4.1")
def test_geometry(session, tmp_path):
    point = "X'0101000000000000000000F03F0000000000000040'"
    path = str(tmp_path / "g")
    try:
        many = f"array(ST_GeogFromWKB({point}), null) as l"
        frame = session.sql(f"select ST_GeomFromWKB({point}) as g, ST_GeogFromWKB({point}) as o, {many}")
        frame.write.parquet(path)
    except Exception as error:
        pytest.skip(f"this Spark has no functions of geometry: {error!r:.80}")
    assert repr(rows_of(feed(batches(path, session), exact=True))) == repr(session.read.parquet(path).collect())
