"""RDDs that Spark stores as pickled batches are fed from these; what arrives is the same."""

from __future__ import annotations

import datetime
import operator
import os

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import Row, SparkSession

import tfos_fast
from tests.spark import mains
from tests.spark.mains import kept
from tfos_fast.cluster.spark.pickled_rdd import pickled_batches

MASTER = "local-cluster[2,1,1024]"
SMALL = {"memory": "8m"}


def plain(i):
    return (i, [i / 3] * 5, f"n{i}")


def odd(i):
    return (i, datetime.date(2020, 1, 1 + i % 28)) if i % 7 == 0 else (i, np.float32(i))


# Name -> an RDD of the rows f(i) with 3000 numbers i from the first on.
KINDS = {
    "parallelize": lambda sc, f, first: sc.parallelize([f(first + i) for i in range(3000)], 4),
    "cached": lambda sc, f, first: sc.parallelize(range(first, first + 3000), 4).map(f).cache(),
    "repartition": lambda sc, f, first: sc.parallelize(range(first, first + 3000), 3).map(f).repartition(4),
    "union": lambda sc, f, first: sc.union(
        [sc.parallelize([f(i) for i in range(first + k, first + k + 1000)], 2) for k in (0, 1000, 2000)]
    ),
}


@pytest.mark.parametrize(
    ("f", "kinds"),
    [(plain, ("parallelize", "union", "cached", "repartition")), (odd, ("repartition", "cached", "union", "parallelize"))],
    ids=["plain", "odd"],
)
def test_rows_arrive_as_they_were(sc, out, f, kinds):
    """One cluster for all kinds; the first one decides the schema."""
    with tfos_fast.run(sc, mains.keep, {"out": out}, 2, **SMALL) as cluster:
        for number, kind in enumerate(kinds):
            rdd = KINDS[kind](sc, f, 3000 * number)
            assert pickled_batches(rdd) is not None
            assert cluster.feed(rdd, epochs=2).rows == 6000
    rows = kept(out)
    expected = sorted([f(i) for i in range(3000 * len(kinds))] * 2, key=operator.itemgetter(0))
    assert sorted(rows, key=operator.itemgetter(0)) == expected
    assert {type(value) for row in rows for value in row} == {type(value) for row in expected for value in row}


def test_rows_of_a_frame(sc, out):
    """The JVM pickles them: what it writes is read like rows that Python pickled, and what pyspark converts is unpickled."""
    from tfos_fast.native.pickled.batch import StreamBatch

    frame = SparkSession(sc).range(0, 2000, 1, 4).selectExpr(
        "id", "id / 3 x", "array(id / 2, 1d) v", "cast(id as string) s", "id % 2 = 0 b", "-id * 5000000000 n", "nullif(id, 7) m"
    )  # fmt: skip
    dates = frame.filter("id < 3").selectExpr("id", "cast('2020-02-29' as date) d").rdd
    stored = frame.rdd.cache()
    loaded = [{StreamBatch().load(batch) for batch in pickled_batches(rdd).collect() if len(batch) > 10} for rdd in (stored, dates)]
    assert loaded == [{True}, {False}]
    with tfos_fast.run(sc, mains.keep, {"out": out}, 2, **SMALL) as cluster:
        assert cluster.feed(stored).rows == 2000
        assert cluster.feed(dates).rows == 3
    expected = stored.collect() + dates.collect()
    assert sorted(kept(out), key=repr) == sorted(expected, key=repr)


def read_vectors(args, ctx):
    spec = {"i": "int64", "v": ("float32", (3,)), "image": ("uint8", (2, 2, 3))}
    rows = []
    for batch in ctx.get_data_feed().batches(64, spec=spec):
        rows += zip(*(batch[name].tolist() for name in spec), strict=True)
    mains.note(args["out"], ctx, rows)


@pytest.mark.long
def test_vectors_and_raw_images_of_frames_and_of_rows(sc, out):
    """Dense and sparse vectors of Spark ML beside raw images: columns of a frame, rows that the JVM pickled, rows of Python's."""

    def row(i):
        vector = Vectors.sparse(3, [i % 3], [i / 2]) if i % 2 else Vectors.dense(i, 0.5, -i)
        return Row(i=i, v=vector, image=bytes([i % 256] * 12))

    rows = sc.parallelize([row(i) for i in range(300)], 2)
    frame = SparkSession(sc).createDataFrame(rows)
    with tfos_fast.run(sc, read_vectors, {"out": out}, 2, **SMALL) as cluster:
        for data in (frame, frame.rdd, rows):
            assert cluster.feed(data).rows == 300
    found = sorted(row for node in mains.noted(out).values() for row in node)
    expected = [[i, row(i).v.toArray().tolist(), [[[i % 256] * 3] * 2] * 2] for i in range(300)]
    assert found == sorted(expected * 3)


def test_a_killed_feeder_goes_on_in_the_middle_of_a_batch(sc, out, tmp_path):
    marker = str(tmp_path / "killed")
    rdd = sc.parallelize([float(i) for i in range(40_000)], 2).cache()
    assert rdd.count() == 40_000

    with tfos_fast.run(sc, mains.keep, {"out": out}, 2, memory="256k", slot_bytes="16k") as cluster:
        batches = pickled_batches(rdd)

        def die(index, partition):
            for n, batch in enumerate(partition):
                yield batch
                if index == 1 and n == 5 and not os.path.exists(marker):
                    open(marker, "w").close()
                    os.kill(os.getpid(), 9)

        # The feed's own action, over batches whose worker dies.
        from tfos_fast.cluster.driver import source as module

        original = module.pickled_batches
        module.pickled_batches = lambda data: batches.mapPartitionsWithIndex(die)
        try:
            report = cluster.feed(rdd)
        finally:
            module.pickled_batches = original
    assert os.path.exists(marker)
    assert report.rows == 40_000
    assert sorted(kept(out)) == [float(i) for i in range(40_000)]


def test_which_rdds_are_stored(sc, tmp_path):
    numbers = sc.parallelize(list(range(10)), 2)
    made = numbers.map(plain)
    (tmp_path / "text").write_text("a\nb\n")
    not_stored = [
        made,
        made.filter(bool),
        sc.textFile(str(tmp_path / "text")),
        numbers.zip(numbers),
        numbers.map(lambda x: (x, x)).reduceByKey(operator.add),
        made.sortBy(lambda row: row[0]),
    ]
    assert [pickled_batches(rdd) for rdd in not_stored] == [None] * len(not_stored)
    cached = made.map(lambda row: row).cache()
    stored = [numbers, cached, made.repartition(2), made.coalesce(1), SparkSession(sc).createDataFrame([Row(x=1)]).rdd]
    for rdd in stored:
        batches = pickled_batches(rdd)
        assert batches is not None
        rows = [row for batch in batches.collect() for row in rdd._jrdd_deserializer.serializer.loads(batch)]
        assert sorted(rows, key=repr) == sorted(rdd.collect(), key=repr)  # a shuffle has no order of its own
    cached.unpersist()
    assert pickled_batches(cached) is None
