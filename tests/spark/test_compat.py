"""Programs for TensorFlowOnSpark, as their writers know it, on a standalone cluster of two executors."""

from __future__ import annotations

import argparse
import json
import os
import sys

import pytest

from tests.spark import sparks
from tests.spark.mains import note, noted
from tests.spark.test_local_cluster import wait_for
from tfos_fast import tensors
from tfos_fast.compat import TFCluster, TFParallel, TFSparkNode, reservation
from tfos_fast.errors import ClusterError, NodeFailed

SPARK, TENSORFLOW = TFCluster.InputMode.SPARK, TFCluster.InputMode.TENSORFLOW


@pytest.fixture(scope="module")
def sc(nothing_left):
    with sparks.standalone(workers=2, cores=1) as master, sparks.spark(master, **{"spark.cores.max": "2"}) as context:
        yield context


def run(sc, map_fun, args, nodes=2, **how):
    how.setdefault("input_mode", SPARK)
    return TFCluster.run(sc, map_fun, args, nodes, 0, **how)


def batches_by_name(args, ctx):
    """args is a list: it is sys.argv; columns come in the order of their names."""
    assert sys.argv == args
    feed = ctx.get_data_feed(input_mapping={"b": "y", "a": "x"})
    assert isinstance(feed.feed, tensors.DataFeed)
    rows = []
    while not feed.should_stop():
        batch = feed.next_batch(8)
        assert list(batch) == ["x", "y"]
        rows += zip(batch["x"], batch["y"], strict=True)
    place = [ctx.worker_num, ctx.executor_id, ctx.job_name, ctx.task_index, ctx.num_workers, sorted(ctx.cluster_spec)]
    note(args[1], ctx, [rows, place, ctx.defaultFS, ctx.absolute_path("model"), os.environ.get("TF_CONFIG")])


def test_train(sc, out):
    cluster = run(sc, batches_by_name, ["train.py", out])
    assert [node["job_name"] for node in cluster.cluster_info] == ["worker", "worker"]
    cluster.train(sc.parallelize([(i, -i) for i in range(100)], 4), num_epochs=2)
    cluster.shutdown()
    cluster.shutdown()
    nodes = noted(out)
    assert sorted(tuple(row) for rows, *_ in nodes.values() for row in rows) == sorted([(i, -i) for i in range(100)] * 2)
    for number, (_, place, root, path, tf_config) in nodes.items():
        assert place == [number, number, "worker", number, 2, ["worker"]]
        assert (root, path) == ("file://", f"file://{os.getcwd()}/model")
        assert tf_config is None


def one_by_one(args, ctx):
    feed = ctx.get_data_feed()
    rows = []
    while not feed.should_stop():
        rows += feed.next_batch(1)
    note(args.out, ctx, rows)


def test_no_number_of_epochs_means_many(sc, out):
    cluster = run(sc, one_by_one, argparse.Namespace(out=out))
    cluster.train(sc.parallelize(range(6), 2))
    cluster.shutdown(grace_secs=0)
    assert sorted(row for rows in noted(out).values() for row in rows) == sorted([*range(6)] * 10)


def doubles(args, ctx):
    feed = ctx.get_data_feed(False)
    while not feed.should_stop():
        rows = feed.next_batch(7)
        if rows:
            feed.batch_results([2 * row for row in rows])


def test_inference_is_lazy_and_in_order(sc):
    cluster = run(sc, doubles, None)
    results = cluster.inference(sc.parallelize(range(50), 4))
    assert results.collect() == [2 * i for i in range(50)]
    assert sc.parallelize(range(9), 2).mapPartitions(TFSparkNode.inference(cluster.cluster_info)).collect() == [
        2 * i for i in range(9)
    ]
    cluster.shutdown()


def fails(args, ctx):
    feed = ctx.get_data_feed()
    feed.next_batch(5)
    if args == "late":
        while not feed.should_stop():
            feed.next_batch(100)
    raise ArithmeticError(f"the loss is no number, {args}")


def test_an_exception_during_the_feed_fails_it(sc):
    cluster = run(sc, fails, "early")
    with pytest.raises(NodeFailed, match="the loss is no number, early"):
        cluster.train(sc.parallelize(range(200_000), 4), 10)
    cluster.shutdown()  # what was raised once is not raised again


def test_an_exception_after_the_feed_is_raised_by_shutdown(sc):
    cluster = run(sc, fails, "late")
    cluster.train(sc.parallelize(range(100), 4), 1)
    with pytest.raises(NodeFailed, match="the loss is no number, late"):
        cluster.shutdown(grace_secs=1)


def stops_early(args, ctx):
    feed = ctx.get_data_feed()
    feed.next_batch(10)
    feed.terminate()


def test_terminate_ends_the_feed(sc):
    cluster = run(sc, stops_early, None)
    cluster.train(sc.parallelize(range(100_000), 8), 10)
    assert cluster.server.done
    cluster.shutdown()


def reads_for_itself(args, ctx):
    note(args.out, ctx, os.environ["TF_CONFIG"], kind=ctx.job_name)


def test_a_chief_in_mode_tensorflow_has_its_tf_config(sc, out):
    cluster = run(sc, reads_for_itself, argparse.Namespace(out=out), input_mode=TENSORFLOW, master_node="chief")
    with pytest.raises(ClusterError, match=r"InputMode\.TENSORFLOW"):
        cluster.train(sc.parallelize([1]))
    cluster.shutdown()
    for kind in ("chief", "worker"):
        config = json.loads(noted(out, kind)[0])
        assert config["task"] == {"type": kind, "index": 0}
        assert sorted(config["cluster"]) == ["chief", "worker"]


def test_streams_are_fed_until_somebody_requests_a_stop(sc, out):
    from pyspark.streaming import StreamingContext

    stream = StreamingContext(sc, 0.5)
    cluster = run(sc, one_by_one, argparse.Namespace(out=out))
    cluster.train(stream.queueStream([sc.parallelize(range(10 * i, 10 * i + 10), 2) for i in range(3)]), feed_timeout=30)
    stream.start()
    states = cluster.cluster._coordinator.nodes.values()
    wait_for(lambda: sum(state.rows_taken for state in states) == 30, "the rows of three batches")
    client = reservation.Client(cluster.cluster_meta["server_addr"])
    client.request_stop()
    client.close()
    cluster.shutdown(stream)
    assert sorted(row for rows in noted(out).values() for row in rows) == [*range(30)]


def alone(args, ctx):
    note(args.out, argparse.Namespace(task_index=ctx.executor_id), [os.getpid(), ctx.num_workers, ctx.cluster_spec])


@pytest.mark.parametrize("use_barrier", [True, False])
def test_programs_of_their_own_side_by_side(sc, out, use_barrier):
    TFParallel.run(sc, alone, argparse.Namespace(out=out, num_gpus=0), 2, use_barrier)
    nodes = noted(out)
    assert len(nodes) == 2
    assert all(node[1:] == [2, {}] for node in nodes.values())


def by_hand(args, ctx):
    note(args.out, ctx, [ctx.job_name, ctx.num_workers, len(ctx.cluster_spec["worker"])])


def test_nodes_by_hand(sc, out):
    server = reservation.Server(2)
    meta = {"cluster_template": {"worker": [0, 1]}, "server_addr": server.start(), "default_fs": "file://", "working_dir": "/"}
    node = TFSparkNode.run(by_hand, argparse.Namespace(out=out, num_gpus=0), meta, False, None, ["input"], False)
    sc.parallelize(range(2), 2).barrier().mapPartitions(lambda numbers: node(numbers) or []).collect()
    server.stop()
    assert noted(out) == {0: ["worker", 2, 2], 1: ["worker", 2, 2]}


def test_tasks_feed_a_cluster(sc, out):
    cluster = run(sc, one_by_one, argparse.Namespace(out=out))
    sc.parallelize(range(40), 4).foreachPartition(TFSparkNode.train(cluster.cluster_info, cluster.cluster_meta))
    cluster.shutdown()
    assert sorted(row for rows in noted(out).values() for row in rows) == [*range(40)]
