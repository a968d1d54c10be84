"""DataFrames of every type and of every name: rows are what ``collect()`` gives, or the type is refused by name."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
from pyspark.ml.linalg import Matrices, Vectors
from pyspark.mllib.linalg import Matrices as OldMatrices
from pyspark.mllib.linalg import Vectors as OldVectors
from pyspark.sql import Row, SparkSession

import tfos_fast
from tests.spark import mains, own_type
from tests.spark.mains import kept
from tests.spark.sparks import ROOT
from tests.support.arrow_types import Point, PointType
from tfos_fast.errors import ClusterError, SchemaMismatch

MASTER = "local-cluster[2,1,1024]"
SMALL = {"memory": "8m"}

EXPRESSIONS = """
cast(1 as tinyint)
float('nan')
'x'
cast('a' as char(3))
X'CAFE'
array(X'CA', null)
cast(1.5 as decimal(38,18))
date'0001-01-01'
timestamp'2020-11-01 05:30:00.123456'
timestamp'1900-01-01 00:00:00.000001'
timestamp_ntz'0001-01-01 00:00:00'
timestamp_ntz'9999-12-31 23:59:59.999999'
array(timestamp'1969-12-31 23:59:59.999999', null)
map('k', timestamp'2020-01-01 00:00:00')
map(named_struct('q', date'2020-02-29'), named_struct('w', X'00'))
map('k', array(map(1, cast(null as int))))
interval '-1 2:3:4.5' day to second
array(interval '1' hour)
named_struct('a', 1, 'b', array('x'))
named_struct('a.b', 1, '`', 2)
array(named_struct('a', timestamp'2020-01-01 00:00:00'), null)
named_struct()
array(array(cast(null as int)), null)
cast(null as void)
cast(null as struct<a: int>)
time'12:34:56.789012'
parse_json('{"a": [1, 2.5, "x"]}')
map('k', array(parse_json('1')))
named_struct('v', parse_json('null'))
st_geomfromwkb(X'0101000000000000000000F03F0000000000000040')
array(st_geogfromwkb(X'0101000000000000000000F03F0000000000000040'))
""".strip().splitlines()


@pytest.fixture(scope="module")
def session(sc):
    return SparkSession(sc)


def those_that_it_knows(session, expressions):
    """The expressions that this version of Spark can evaluate."""
    known = []
    for text in expressions:
        try:
            session.sql(f"select {text} as c").schema.json()
        except Exception:  # a parser, an analyser, an assertion of the JVM
            continue
        known.append(text)
    return known


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_rows_are_what_collect_gives(sc, session, out, zone):
    session.conf.set("spark.sql.session.timeZone", zone)
    for name in ("spark.sql.timeType.enabled", "spark.sql.geospatial.enabled"):
        session.conf.set(name, "true")
    known = those_that_it_knows(session, EXPRESSIONS)
    assert len(known) >= 24
    sql = session.sql("select " + ", ".join(f"{text} as c{i}" for i, text in enumerate(known)))
    values = [
        Vectors.dense([1, 2]), Vectors.sparse(3, {1: 2.0}), OldVectors.dense([1]), OldVectors.sparse(3, {1: 2.0}),
        Matrices.dense(2, 2, [1, 2, 3, 4]), OldMatrices.sparse(2, 2, [0, 1, 2], [0, 1], [1, 2]),
    ]  # fmt: skip
    vectors = session.createDataFrame([(value, [value], {"k": value}, Row(f=value)) for value in values[:2]], list("abcd"))
    others = session.createDataFrame([tuple(values)], list("abcdef"))
    points = session.createDataFrame([(Point(1.0, 2.0), [Point(3.0, 4.0)]), (None, [])], schema_of_points())
    frames = [sql, vectors, others, points]
    with tfos_fast.run(sc, mains.keep, {"out": out}, 2, **SMALL) as cluster:
        for frame in frames:
            cluster.feed(frame)
    expected = [pickle.loads(pickle.dumps(row)) for frame in frames for row in frame.collect()]  # matrices pickle a bool as an int
    assert sorted(map(repr_of, kept(out))) == sorted(map(repr_of, expected))


def schema_of_points():
    from pyspark.sql.types import ArrayType, StructField, StructType

    return StructType([StructField("p", PointType()), StructField("l", ArrayType(PointType(), False))])


def repr_of(value):
    """What tells a value, of a class of users, too, and its type from others."""
    if isinstance(value, Point):
        return f"Point{value.xy}"
    if isinstance(value, Row) and hasattr(value, "__fields__"):
        return f"Row({', '.join(f'{n}={repr_of(v)}' for n, v in zip(value.__fields__, value, strict=True))})"
    if isinstance(value, list):
        return f"[{', '.join(map(repr_of, value))}]"
    return f"{type(value).__module__} {value!r}"


WHOLE = """
parse_json('{"a": [1, null]}')
array(parse_json('2'), null)
named_struct('v', map('k', parse_json('null')))
st_geomfromwkb(X'0101000000000000000000F03F0000000000000040')
st_geogfromwkb(X'0101000000000000000000F03F0000000000000040')
st_setsrid(st_geomfromwkb(X'0101000000000000000000F03F0000000000000040'), 3857)
array(st_geomfromwkb(X'0101000000000000000000F03F0000000000000040'), null)
named_struct('f', st_geogfromwkb(X'0101000000000000000000F03F0000000000000040'))
time'12:34:56.789012'
""".strip().splitlines()


def give_back(args, ctx):
    """Rows without their first value, as tuples or dicts."""
    feed = ctx.get_data_feed(train_mode=False)
    while not feed.should_stop():
        rows = [(row.__fields__[1:], row[1:]) for row in feed.next_batch(7)]
        if rows:
            feed.batch_results([values if args == "tuple" else dict(zip(names, values, strict=True)) for names, values in rows])


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_values_that_are_structs_in_arrow_are_kept_and_given_back(sc, session, form):
    for name in ("spark.sql.timeType.enabled", "spark.sql.geospatial.enabled"):
        session.conf.set(name, "true")
    known = those_that_it_knows(session, WHOLE)
    if not known:
        pytest.skip("this Spark has no such types")
    columns = ", ".join(f"if(id = 1, null, {text}) as c{i}" for i, text in enumerate(known))
    frame = session.sql(f"select id, {columns} from range(0, 3, 1, 1)")
    expected = [repr_of(row) for row in frame.drop("id").collect()]
    with tfos_fast.run(sc, give_back, form, 1, **SMALL) as cluster:
        given = cluster.infer(frame, schema=frame.drop("id").schema)
        assert [repr_of(row) for row in given.collect()] == expected
        told = frame.select("id", frame["id"].alias("n"), *frame.columns[1:])
        kept_ones = cluster.infer(told, schema="n bigint", columns=["id", "n"], keep=frame.columns[1:])
        assert [repr_of(row) for row in kept_ones.drop("n").collect()] == expected


def test_a_program_with_a_type_of_its_own(tmp_path):
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}
    environ.pop("SPARK_HOME", None)
    command, pipe = [sys.executable, own_type.__file__, str(tmp_path)], subprocess.PIPE
    done = subprocess.run(command, env=environ, timeout=110, text=True, stdout=pipe, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "as collect() has it"


def test_types_that_cannot_be_fed_are_named_before_spark_runs(sc, session, out):
    refused = {
        "interval '1-2' year to month": "column 'c' is, or holds, INTERVAL YEAR TO MONTH, which pyarrow cannot read",
        "array(interval '2' month)": "column 'c' is, or holds, INTERVAL MONTH",
        "make_interval(1, 2, 3)": "column 'c' is, or holds, INTERVAL of months, days and microseconds",
        "array(struct(1 as a, 2 as a))": "a struct with several fields called 'a'",
    }
    with tfos_fast.run(sc, mains.keep, {"out": out}, 1, **SMALL) as cluster:
        for text, message in refused.items():
            with pytest.raises(SchemaMismatch, match=message):
                cluster.feed(session.sql(f"select 1 as x, {text} as c"))
            with pytest.raises(SchemaMismatch, match=message):
                cluster.infer(session.sql(f"select 1 as x, {text} as c"), schema="y int", columns=["x"], keep=["c"])
        cluster.feed(session.sql(f"select 1 as x, {next(iter(refused))} as c").drop("c"))
    assert kept(out) == [Row(x=1)]


ODD_NAMES = ["a.b", "`", "a`.`c", "a", "A", "", "x y", "*"]


def odd_frame(session):
    return session.range(4, numPartitions=2).selectExpr(*(f"id + {i}" for i in range(len(ODD_NAMES)))).toDF(*ODD_NAMES)


def double_a_b(args, ctx):
    feed = ctx.get_data_feed(train_mode=False)
    while not feed.should_stop():
        rows = feed.next_batch(10)
        assert all(row.__fields__ == args["names"] for row in rows), [row.__fields__ for row in rows]
        feed.batch_results([{"twice": 2 * row["a.b"]} for row in rows])


def check_names(cluster_of, session, out):
    """Feed and infer with names that Spark does not resolve, through either kind of session."""
    frame = odd_frame(session)
    twice = session.range(4).selectExpr("id", "id * 2", "id * 3").toDF("a", "b", "a")
    with cluster_of(mains.keep, {"out": out}) as cluster:
        assert cluster.feed(frame).rows == 4
        assert cluster.feed(twice).rows == 4
    rows = sorted(kept(out), key=lambda row: (len(row), row))
    assert {tuple(row.__fields__) for row in rows[:4]} == {("a", "b", "a")}
    assert [tuple(row) for row in rows[:4]] == [(i, i * 2, i * 3) for i in range(4)]
    assert {tuple(row.__fields__) for row in rows[4:]} == {tuple(ODD_NAMES)}
    assert [tuple(row) for row in rows[4:]] == [tuple(i + k for k in range(len(ODD_NAMES))) for i in range(4)]
    with cluster_of(double_a_b, {"names": ODD_NAMES}) as cluster:
        results = cluster.infer(frame, schema="twice long", keep=["`", "a`.`c", "A"])
        assert results.columns == ["`", "a`.`c", "A", "twice"]
        assert [tuple(row) for row in results.collect()] == [(i + 1, i + 2, i + 4, 2 * i) for i in range(4)]
    with cluster_of(double_a_b, {"names": ["a.b", "*"]}) as cluster:
        learned = cluster.infer(frame, columns=["a.b", "*"], keep=["", "a.b"])
        assert learned.columns == ["", "a.b", "twice"]
        assert [tuple(row) for row in learned.collect()] == [(i + 5, i, 2 * i) for i in range(4)]
        with pytest.raises(ClusterError, match=r"infer\(keep=\['a'\]\): 'a' is there 2 times in the DataFrame"):
            cluster.infer(twice, schema="twice long", columns=["b"], keep=["a"])


def test_names_that_spark_does_not_resolve(sc, session, out):
    check_names(lambda main, args: tfos_fast.run(sc, main, args, 1, **SMALL), session, out)


def test_frames_without_columns_and_of_empty_structs_have_rows(sc, session, out):
    def count(args, ctx):
        batches = [len(next(iter(batch.values()), ())) if batch else -1 for batch in ctx.get_data_feed().batches(10)]
        mains.note(args["out"], ctx, batches)

    with tfos_fast.run(sc, count, {"out": out}, 1, **SMALL) as cluster:
        if those_that_it_knows(session, ["named_struct()"]):
            assert cluster.feed(session.range(25, numPartitions=1).selectExpr("named_struct() as s")).rows == 25
        assert cluster.feed(session.range(25, numPartitions=1).select()).rows == 25
