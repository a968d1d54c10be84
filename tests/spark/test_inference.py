"""Inference with whole arrays as results: RDDs stored and computed, DataFrames with kept columns; in order, one for one."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import SparkSession

import tfos_fast
from tests.spark import mains
from tfos_fast.errors import ClusterError

MASTER = "local-cluster[2,1,1024]"


@pytest.fixture(scope="module")
def session(sc):
    return SparkSession(sc)


def test_rdds_stored_and_computed_give_rows_of_arrays(sc):
    stored = sc.parallelize(range(3001), 5)
    computed = stored.map(lambda i: i + 1)
    with tfos_fast.run(sc, mains.predict, {"how": "array"}, 2, memory="4m") as cluster:
        for rdd, first in ((stored, 0), (computed, 1), (computed.cache(), 1)):
            results = cluster.infer(rdd).collect()
            assert results == [2.0 * (i + first) for i in range(3001)]
            assert type(results[0]) is float
        assert cluster.infer(sc.parallelize([], 3)).collect() == []
        with pytest.raises(TypeError, match="for DataFrames"):
            cluster.infer(stored, keep=["id"])


def test_results_larger_than_the_rows_in_a_small_segment(sc):
    # Four slots, one of them for results: each holds the results of three rows.
    args = {"how": "tuple", "width": 1000, "batch": 50}
    with tfos_fast.run(sc, mains.predict, args, 2, memory="64k", slot_bytes="16k") as cluster:
        rows = cluster.infer(sc.parallelize(range(600), 4)).collect()
    assert [y for y, _ in rows] == [2.0 * i for i in range(600)]
    for y, wide in rows:
        assert wide.shape == (1000,)
        assert wide.dtype == np.float32
        assert (wide == y).all()


def test_frame_with_kept_columns(session, sc):
    frame = session.range(5000, numPartitions=5).selectExpr(
        "id", "cast(id as float) as x", "concat('n', id) as name", "case when id % 3 = 0 then null else map(id, 'v') end as odd"
    )
    with tfos_fast.run(sc, mains.predict, {"how": "dict"}, 2, memory="4m") as cluster:
        kept = ["name", "odd", "id"]
        results = cluster.infer(frame, schema="z array<double>, y float", keep=kept, columns=["x"])
        assert results.dtypes == [
            ("name", "string"), ("odd", "map<bigint,string>"), ("id", "bigint"), ("z", "array<double>"), ("y", "float")
        ]  # fmt: skip
        rows = results.collect()
        expected = [(f"n{i}", {i: "v"} if i % 3 else None, i, [2.0 * i] * 3, 2.0 * i) for i in range(5000)]
        assert list(map(tuple, rows)) == expected  # partitions in order, rows in order
        learned = cluster.infer(frame, keep=["id"], columns=["x"])
        assert learned.dtypes == [("id", "bigint"), ("y", "double"), ("z", "array<double>")]
        assert learned.where("id = 7").first()["y"] == 14.0
        with pytest.raises(ClusterError, match="the DataFrame has no column 'nix'; its columns are 'id', 'x', 'name', 'odd'"):
            cluster.infer(frame, schema="y float", keep=["nix"])
        with pytest.raises(ClusterError, match="both kept columns and results"):
            cluster.infer(frame, schema="id float", keep=["id"])
        with pytest.raises(TypeError, match="list of column names"):
            cluster.infer(frame, schema="y float", keep="id")


def leave(args, ctx):
    """Give some results, if any, and return."""
    feed = ctx.get_data_feed(train_mode=False)
    if args["results"]:
        feed.batch_results(feed.next_batch(args["results"]))


@pytest.mark.parametrize("results", [0, 10])
def test_a_main_that_returns_early_is_told(session, sc, results):
    with tfos_fast.run(sc, leave, {"results": results}, 2, memory="1m", slot_bytes="16k") as cluster:
        if results:
            inferred = cluster.infer(session.range(3000, numPartitions=4), schema="id long")
        else:
            inferred = cluster.infer(sc.parallelize(range(3000), 4))
        with pytest.raises(Exception, match=r"had its result \(\d+ came back\)|takes rows any more"):
            inferred.collect()


def test_results_under_other_names_than_the_schema_says_are_told(session, sc):
    frame = session.range(100, numPartitions=2).selectExpr("cast(id as float) as x")
    with tfos_fast.run(sc, mains.predict, {"how": "dict"}, 2, memory="4m") as cluster:
        with pytest.raises(Exception, match="the results have 'y', 'z', and the schema has 'nope' instead"):
            cluster.infer(frame, schema="nope float").collect()
        assert cluster.infer(frame, schema="y float").where("y = 4").count() == 1


def same(args, ctx):
    """Give back a part of each row, as it was fed."""
    feed = ctx.get_data_feed(train_mode=False)
    while not feed.should_stop():
        if rows := feed.next_batch(64):
            feed.batch_results([row[args["name"]] for row in rows])


@pytest.mark.parametrize(
    ("name", "schema"),
    [("tags", "tags array<string>"), ("tags", None), ("ts", "ts timestamp"), ("n", "n timestamp_ntz"), ("ts", None)],
)
def test_what_row_mode_hands_out_comes_back(session, sc, name, schema):
    frame = session.range(40, numPartitions=2).selectExpr(
        "transform(sequence(1, cast(id % 3 as int)), i -> concat('bird', i)) as tags",
        "timestamp_micros(id * 86400000123456) as ts",
        "cast(timestamp_micros(id) as timestamp_ntz) as n",
    )
    with tfos_fast.run(sc, same, {"name": name}, 2, memory="4m") as cluster:
        results = cluster.infer(frame, schema=schema).collect()
    assert [row[0] for row in results] == [row[0] for row in frame.select(name).collect()]


def test_types_that_no_result_reaches_are_refused_at_once(session, sc):
    frame = session.range(3)
    with tfos_fast.run(sc, mains.predict, {"how": "dict"}, 2, memory="4m") as cluster:
        for schema, found in (
            ("x interval year", "'x' is interval year"),
            ("x array<varchar(3)>", "declare string"),
            ("x int, x int", "twice"),
        ):
            with pytest.raises(ClusterError, match=found):
                cluster.infer(frame, schema=schema)


def answer_by_kind(args, ctx):
    """Results of the kind that a row asks for."""
    fields = np.array([(1, 2.5)], [("b", "i4"), ("a", "f8")])
    results = {
        "none": [None], "empty": [[], [], None], "mixed": [1, 1.5], "parts of none": [(1, None)], "set": [{1}],
        "numpy in tuples": [{"x": (1, np.float32(2.5))}], "fields": [fields[0]], "fields in lists": [{"x": fields}],
    }  # fmt: skip
    feed = ctx.get_data_feed(train_mode=False)
    while not feed.should_stop():
        rows = feed.next_batch(8)
        if rows:
            feed.batch_results([results[kind][i % len(results[kind])] for i, kind in rows])


def test_columns_that_the_results_do_not_tell(session, sc):
    def frame(kind):
        return session.range(6, numPartitions=1).selectExpr("id", f"'{kind}' as kind")

    with tfos_fast.run(sc, answer_by_kind, {}, 1, memory="4m") as cluster:
        for kind in ("none", "empty", "mixed", "parts of none", "set"):
            with pytest.raises(ClusterError, match=r"cannot be learned from the first 6 results .*give infer\(\) a schema"):
                cluster.infer(frame(kind))
        learned = {kind: cluster.infer(frame(kind)) for kind in ("numpy in tuples", "fields", "fields in lists")}
        assert [found.schema.simpleString() for found in learned.values()] == [
            "struct<x:struct<_1:bigint,_2:double>>", "struct<b:bigint,a:double>", "struct<x:array<struct<b:bigint,a:double>>>"
        ]  # fmt: skip
        assert [found.first() for found in learned.values()] == [((1, 2.5),), (1, 2.5), ([(1, 2.5)],)]
