"""Feed tasks that reach nodes over the network: forced here, on executors of one host; tests/multihost has real hosts."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

import tfos_fast
from tests.spark import mains
from tests.spark.mains import noted
from tests.spark.test_local_cluster import check_once_and_in_order, numbered
from tfos_fast.cluster.choosing import FORCE
from tfos_fast.errors import NodeFailed

MASTER = "local-cluster[2,2,1024]"
SETTINGS = {f"spark.executorEnv.{FORCE}": "1"}


def test_rows_of_every_executor_come_to_one_node_and_results_go_back(sc, out):
    sizes = [2000, 5, 0, 3000, 1, 700]
    with tfos_fast.run(sc, mains.collect, {"out": out}, 1, memory="8m") as cluster:
        assert cluster.nodes[0].feed_endpoint
        assert cluster.feed(numbered(sc, sizes)).rows == sum(sizes)
    check_once_and_in_order(noted(out), sizes)
    with tfos_fast.run(sc, mains.label, {}, 1, memory="8m") as cluster:
        frame = SparkSession(sc).range(300, numPartitions=4).selectExpr("id", "cast(id as double) as x")
        results = cluster.infer(frame, schema="id long, twice double")
        assert [tuple(row) for row in results.collect()] == [(i, 2.0 * i) for i in range(300)]


def test_a_trainer_that_raises_is_told_through_the_gateway(sc):
    with pytest.raises(NodeFailed, match="that is too many") as caught:
        with tfos_fast.run(sc, mains.fail_at, {"node": 0, "rows": 100}, 1, memory="8m") as cluster:
            cluster.feed(numbered(sc, [10**6] * 4))
    assert "ArithmeticError" in caught.value.remote_traceback
