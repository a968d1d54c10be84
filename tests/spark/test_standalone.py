"""A Master and Workers started from the pip-installed pyspark."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

import tfos_fast
from tests.spark import mains, sparks
from tests.spark.mains import noted
from tests.spark.test_local_cluster import check_once_and_in_order, numbered
from tfos_fast.errors import NotEnoughSlots


@pytest.fixture(scope="module")
def sc(nothing_left):
    with sparks.standalone(workers=2, cores=2) as master, sparks.spark(master, **{"spark.cores.max": "4"}) as context:
        yield context


def test_feed_and_infer(sc, out):
    """Two nodes on two executors, two feed tasks at each."""
    sizes = [2000, 5, 0, 3000, 1, 700]
    with tfos_fast.run(sc, mains.collect, {"out": out}, 2, memory="8m") as cluster:
        assert len({node.executor.pid for node in cluster.nodes}) == 2
        assert cluster.feed(numbered(sc, sizes)).rows == sum(sizes)
    check_once_and_in_order(noted(out), sizes)
    with tfos_fast.run(sc, mains.label, {}, 2, memory="8m") as cluster:
        frame = SparkSession(sc).range(300, numPartitions=4).selectExpr("id", "cast(id as double) as x")
        results = cluster.infer(frame, schema="id long, twice double")
        assert [tuple(row) for row in results.collect()] == [(i, 2.0 * i) for i in range(300)]


def test_more_nodes_than_executors_share_them(sc, out):
    with tfos_fast.run(sc, mains.collect, {"out": out}, 3, memory="8m") as cluster:
        assert cluster.feed(numbered(sc, [300] * 6)).rows == 1800
    check_once_and_in_order(noted(out), [300] * 6)


def test_too_few_slots_are_told_at_once(sc):
    with pytest.raises(NotEnoughSlots, match=r"5 nodes need 5 task slots.*can have 4.*spark\.cores\.max"):
        tfos_fast.reserve(sc, 5)
