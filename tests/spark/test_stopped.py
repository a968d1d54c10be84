"""Calls that come too late: after ``sc.stop()``, after ``shutdown()``, with data of a context that is no more."""

from __future__ import annotations

import threading
import time

import pytest

import tfos_fast
from tests.spark import mains
from tests.spark.sparks import spark
from tfos_fast.compat import TFCluster, TFParallel
from tfos_fast.errors import ClusterError


def calls(cluster, data):
    """Each call that needs a cluster that runs."""
    return {
        "feed": lambda: cluster.feed(data),
        "train": lambda: cluster.train(data),
        "files": lambda: cluster.feed(tfos_fast.parquet("/nowhere")),
        "infer": lambda: cluster.infer(data),
        "inference": lambda: cluster.inference(data),
        "offer": lambda: cluster.offer(data, "more"),
        "start": lambda: cluster.start(mains.collect),
    }


def refused(calls, says):
    for name, call in calls.items():
        with pytest.raises(ClusterError, match=says):
            call()
            pytest.fail(f"{name} is not refused")


def test_calls_that_come_too_late(tmp_path):
    with spark("local[4]") as sc:
        data = sc.parallelize(range(10), 2)
        over = tfos_fast.reserve(sc, 1, memory="1m")
        over.shutdown()
        refused(calls(over, data), "the cluster was shut down: reserve another one")
        cluster = tfos_fast.run(sc, mains.collect, {"out": str(tmp_path)}, 2, memory="1m")
        cluster.feed(data)
        sc.stop()
        stopped = "the SparkContext was stopped: make another SparkContext, and reserve a cluster with it"
        refused(calls(cluster, data), stopped)
        cluster.shutdown()  # of local[N] the nodes are still there
        refused(calls(cluster, data), "the cluster was shut down")
        late = {
            "reserve": lambda: tfos_fast.reserve(sc, 1),
            "run": lambda: tfos_fast.run(sc, mains.collect, None, 1),
            "TFCluster": lambda: TFCluster.run(sc, mains.collect, None, 1, 0),
            "TFParallel": lambda: TFParallel.run(sc, mains.collect, None, 1),
        }
        refused(late, stopped)
    assert sorted(row for rows in mains.noted(tmp_path).values() for row in rows) == [*range(10)]


def test_spark_is_stopped_in_the_middle_of_a_feed(tmp_path):
    def slowly(rows):
        for row in rows:
            time.sleep(0.05)
            yield row

    with spark("local[4]") as sc:
        cluster = tfos_fast.run(sc, mains.collect, {"out": str(tmp_path)}, 1, memory="1m")
        stop = threading.Timer(2.0, sc.stop)
        stop.start()
        with pytest.raises(ClusterError, match=r"SparkContext was stopped.* call cluster.shutdown\(\) before sc.stop") as caught:
            cluster.feed(sc.parallelize(range(10_000), 2).mapPartitions(slowly))
        assert caught.value.spark_error is not None
        stop.join()
        cluster.abort()


def test_shutdown_after_the_executors_have_ended(tmp_path):
    """Elsewhere than on local[N] the nodes end with them."""
    with spark("local-cluster[1,1,1024]") as sc:
        cluster = tfos_fast.run(sc, mains.collect, {"out": str(tmp_path)}, 1, memory="1m")
        sc.stop()
        with pytest.raises(ClusterError, match=r"SparkContext was stopped.* call cluster.shutdown\(\) before sc.stop"):
            cluster.shutdown()
        assert "executor" in cluster.shutdown().nodes["worker:0"].failure


def test_data_of_a_context_that_is_no_more():
    with spark("local[2]") as sc:
        old = sc.parallelize(range(10), 2)
    with spark("local[2]") as sc, tfos_fast.run(sc, mains.collect, {"out": "/nowhere"}, 1, memory="1m") as cluster:
        with pytest.raises(ClusterError, match="the SparkContext was stopped: make the data anew"):
            cluster.feed(old)
        with pytest.raises(ClusterError, match="the SparkContext was stopped: make the data anew"):
            cluster.infer(old)
        cluster.abort()
