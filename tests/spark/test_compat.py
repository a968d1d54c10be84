"""Programs for TensorFlowOnSpark, as their writers know it, on a standalone cluster of two executors."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.spark import sparks
from tests.spark.mains import note, noted
from tests.support.ports import can_bind
from tests.support.spark_feeds import Suicide, wait_for
from tfos_fast import tensors
from tfos_fast.cluster.protocol.identity import this_process
from tfos_fast.compat import TFCluster, TFNode, TFParallel, TFSparkNode, reservation
from tfos_fast.errors import (
    ClusterError,
    ClusterTimeout,
    NodeFailed,
    NodeKilled,
    NotEnoughGpus,
    NotEnoughSlots,
    RoleError,
    StallTimeout,
)

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
    assert {"id", "cluster_template", "server_addr", "default_fs", "working_dir"} <= set(cluster.cluster_meta)
    assert (cluster.sc, cluster.input_mode, cluster.queues) == (sc, SPARK, ["input", "output", "error"])
    assert (cluster.nodeRDD.getNumPartitions(), cluster.server.done, cluster.tensorboard_url()) == (2, False, None)
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


def reads_as_for_inference(args, ctx):
    """As the example keras/mnist_spark.py does: rows of training, read with train_mode False and answered by nobody."""
    feed = TFNode.DataFeed(ctx.mgr, False)
    rows = []
    while not feed.should_stop():
        rows += feed.next_batch(3)
    note(args.out, ctx, rows)


def test_rows_of_training_owe_no_results(sc, out):
    cluster = run(sc, reads_as_for_inference, argparse.Namespace(out=out))
    cluster.train(sc.parallelize(range(100), 4), 2)
    cluster.shutdown()
    assert sorted(row for rows in noted(out).values() for row in rows) == sorted([*range(100)] * 2)


def one_thread_reads_another_answers(args, ctx):
    feed = ctx.get_data_feed(False)
    taken = queue.Queue()

    def read():
        while not feed.should_stop():
            for row in feed.next_batch(1):
                taken.put(row)
        taken.put(None)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    while (row := taken.get()) is not None:
        feed.batch_results([-row])
    thread.join()


def test_one_thread_reads_and_another_gives_results(sc):
    cluster = run(sc, one_thread_reads_another_answers, None)
    assert cluster.inference(sc.parallelize(range(200), 5)).collect() == [-i for i in range(200)]
    cluster.shutdown()


def feed_first_role_later(args, ctx):
    feed = TFNode.DataFeed(ctx.mgr)
    if ctx.job_name == "ps":
        ctx.hold()
    note(args.out, ctx, sum(len(feed.next_batch(10)) for _ in iter(feed.should_stop, True)))


def test_a_ps_makes_a_feed_before_it_looks_at_its_role(sc, out):
    cluster = TFCluster.run(sc, feed_first_role_later, argparse.Namespace(out=out), 2, 1, input_mode=SPARK)
    cluster.train(sc.parallelize(range(100), 4), 1)
    cluster.shutdown()
    assert [*noted(out).values()] == [100]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be GPUs here")
def test_who_asks_for_gpus_does_not_train_without(sc, out):
    with pytest.raises(NotEnoughGpus, match="num_gpus=1 asks for GPUs, and there are none for worker:0"):
        run(sc, one_by_one, argparse.Namespace(out=out, num_gpus=1))
    cluster = run(sc, one_by_one, argparse.Namespace(out=out, num_gpus=0))
    cluster.train(sc.parallelize(range(6), 2), 1)
    cluster.shutdown()
    assert sorted(row for rows in noted(out).values() for row in rows) == [*range(6)]


def test_the_address_of_the_server_is_printed(sc, capfd):
    cluster = run(sc, doubles, None)
    host, port = cluster.cluster_meta["server_addr"]
    assert f"listening for reservations at ('{host}', {port})" in capfd.readouterr().err
    client = reservation.Client((host, port))  # as stop_streaming.py does
    client.request_stop()
    client.close()
    assert cluster.server.done
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
    assert sc.parallelize(range(2), 2).mapPartitions(TFSparkNode.shutdown(cluster.cluster_info)).collect() == [True, True]
    cluster.shutdown()
    assert sorted(row for rows in noted(out).values() for row in rows) == [*range(40)]


def every_role(args, ctx):
    """What nodes of all roles see; their ports are held until they give them up."""
    if ctx.job_name == "evaluator":
        with pytest.raises(RoleError, match="evaluator:0 is not in the cluster_spec"):
            ctx.start_cluster_server()
        note(args.out, ctx, sorted(ctx.cluster_spec), ctx.job_name)
        time.sleep(3600)
    mine = ctx.cluster_spec[ctx.job_name][ctx.task_index]
    assert ctx.tmp_socket is not None
    held = can_bind(mine)
    if ctx.job_name == "ps":
        TFNode.release_port(ctx)
    else:
        ctx.release_port()
    place = [ctx.executor_id, ctx.num_workers, sorted(ctx.cluster_spec), json.loads(os.environ["TF_CONFIG"])["task"]["type"]]
    note(args.out, ctx, [held, can_bind(mine), ctx.tmp_socket, *place], ctx.job_name)
    if ctx.job_name == "ps":
        time.sleep(3600)
    feed = ctx.get_data_feed()
    while not feed.should_stop():
        feed.next_batch(10)


def test_a_ps_on_the_driver_a_chief_and_an_evaluator_whose_ports_are_held(sc, out):
    cluster = TFCluster.run(
        sc, every_role, argparse.Namespace(out=out), 3, 1, input_mode=SPARK, driver_ps_nodes=True, master_node="chief",
        eval_node=True, release_port=False,
    )  # fmt: skip
    assert cluster.cluster_meta["cluster_template"] == {"ps": [0], "chief": [1], "evaluator": [2]}
    assert [node.executor == this_process() for node in cluster.cluster.nodes] == [True, False, False]
    cluster.train(sc.parallelize(range(20), 2), 1)
    wait_for(lambda: noted(out, "ps") and noted(out, "evaluator"), "what ps and evaluator see")
    cluster.shutdown()
    assert noted(out, "ps")[0] == [False, True, None, 0, 1, ["chief", "ps"], "ps"]
    assert noted(out, "chief")[0] == [False, True, None, 1, 1, ["chief", "ps"], "chief"]
    assert noted(out, "evaluator")[0] == ["chief", "ps"]


def free_range(length):
    """The first port of so many that were free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1] + 1 - length // 2


def returns(args, ctx):
    note(args.out, ctx, ctx.cluster_spec["worker"])


def test_ports_of_the_environment_and_tensorboard(sc, out, monkeypatch):
    first = free_range(40)
    monkeypatch.setitem(sc.environment, "TENSORFLOW_PORT", f"{first}-{first + 9}")
    monkeypatch.setitem(sc.environment, "TENSORBOARD_PORT", f"{first + 10}-{first + 19}")
    monkeypatch.setenv("TFOS_SERVER_PORT", f"{first + 20}-{first + 39}")
    cluster = run(sc, returns, argparse.Namespace(out=out), input_mode=TENSORFLOW, tensorboard=True, log_dir=out)
    ports = [node["port"] for node in cluster.cluster_info]
    assert len(set(ports)) == 2
    assert all(first <= port < first + 10 for port in ports)
    board = cluster.cluster_info[0]["tb_port"]
    assert first + 10 <= board < first + 20
    assert cluster.cluster_info[1]["tb_port"] == 0
    assert cluster.tensorboard_url() == f"http://{cluster.cluster_info[0]['host']}:{board}"
    assert first + 20 <= cluster.cluster_meta["server_addr"][1] < first + 40
    cluster.shutdown()
    assert [int(address.rpartition(":")[2]) for address in noted(out)[0]] == ports


def two_queues(args, ctx):
    """Validation beside training; and what there is no queue for."""
    with pytest.raises(ClusterError, match=r"no queue 'test', but input, output, error, validation"):
        ctx.get_data_feed(qname_in="test")
    validation = ctx.get_data_feed(qname_in="validation")
    before, after = validation.next_batch(10), []
    feed = TFNode.DataFeed(ctx.mgr, True, "input", "output", None)
    rows = []
    while not feed.should_stop():
        rows += feed.next_batch(10)
    ctx.mgr.set("seen", len(rows))
    while not validation.should_stop():
        after += validation.next_batch(4)
    note(args.out, ctx, [before, after, rows, ctx.mgr.get("seen"), ctx.mgr.get("state")])


def test_a_queue_for_validation(sc, out):
    cluster = run(sc, two_queues, argparse.Namespace(out=out), nodes=1, queues=["input", "output", "error", "validation"])
    with pytest.raises(ClusterError, match=r"no queue 'test'"):
        cluster.train(sc.parallelize([1]), qname="test")
    cluster.train(sc.parallelize(range(100, 110), 1), 2, qname="validation")
    cluster.train(sc.parallelize(range(200, 205), 1), 1, qname="validation")
    cluster.train(sc.parallelize(range(30), 2), 1)
    cluster.shutdown()
    before, after, rows, seen, state = noted(out)[0]
    assert before == [*range(100, 110)]
    assert after == [*range(100, 110), *range(200, 205)]  # asked for after the shutdown had begun
    assert sorted(rows) == [*range(30)]
    assert (seen, state) == (30, "running")


def negates(args, ctx):
    """Node 0 takes and gives row by row at the queues of ``ctx.mgr``, node 1 has a feed with names of its own."""
    if ctx.task_index:
        feed = ctx.get_data_feed(False, "questions", "answers")
        while not feed.should_stop():
            feed.batch_results([-row for row in feed.next_batch(3)])
        return
    TFNode.DataFeed(ctx.mgr, train_mode=False)
    rows, results = ctx.mgr.get_queue("input"), ctx.mgr.get_queue("output")
    while not rows.empty():
        row = rows.get(block=True)
        if row is not None:
            rows.task_done()
            results.put(-row)


def test_inference_by_queues_of_other_names(sc):
    cluster = run(sc, negates, None, queues=["input", "output", "questions", "answers"])
    assert cluster.inference(sc.parallelize(range(40), 4), qname="questions").collect() == [-i for i in range(40)]
    cluster.shutdown()


def killed_by_the_kernel(args, ctx):
    ctx.get_data_feed().next_batch(1)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_trainer_is_named_with_its_signal(sc):
    cluster = run(sc, killed_by_the_kernel, None)
    with pytest.raises(NodeKilled, match=r"worker:\d on .*killed by signal 9 \(SIGKILL\)"):
        cluster.train(sc.parallelize(range(200_000), 4))
    cluster.shutdown()


def test_too_few_executors_are_told_at_once(sc):
    with pytest.raises(NotEnoughSlots, match=r"3 nodes need 3 task slots.*can have 2"):
        run(sc, one_by_one, None, nodes=3)


def takes_one(args, ctx):
    ctx.get_data_feed().next_batch(1)
    time.sleep(3600)


@pytest.mark.long
def test_a_feed_that_does_not_move_says_who_waits_for_whom(sc):
    cluster = run(sc, takes_one, None)
    with pytest.raises(StallTimeout, match=r"worker:\d"):
        cluster.train(sc.parallelize(range(100), 4), feed_timeout=3)
    with contextlib.suppress(StallTimeout, ClusterTimeout):  # depends on whether a feed task or the driver lost patience first
        cluster.shutdown(timeout=1)


@pytest.mark.long
def test_a_task_that_is_tried_again_feeds_no_row_twice(sc, out, tmp_path):
    cluster = run(sc, one_by_one, argparse.Namespace(out=out))
    rows = sc.parallelize(range(90_000), 3).mapPartitionsWithIndex(Suicide(str(tmp_path / "killed"), 20_000))
    cluster.train(rows, 1)
    cluster.shutdown()
    assert (tmp_path / "killed").exists()
    assert sorted(row for rows in noted(out).values() for row in rows) == [*range(90_000)]


@pytest.mark.long
def test_uneven_partitions_and_a_step_of_all_nodes(sc, out):
    """Nodes that agree on their steps: the feed of tfos_fast beside the names of TensorFlowOnSpark."""
    cluster = run(sc, steps_together, argparse.Namespace(out=out))
    cluster.train(sc.parallelize(range(900), 3).mapPartitionsWithIndex(lambda i, rows: list(rows)[: 300 >> 3 * i]), 1)
    cluster.shutdown()
    steps = [noted(out)[i] for i in range(2)]
    assert steps[0] == steps[1] > 0


def steps_together(args, ctx):
    feed = ctx.mgr.feed(True, "input")
    note(args.out, ctx, sum(1 for _ in feed.batches(8, uneven="stop")))


def coordinated(args, ctx):
    """TensorFlow 2: the chief deals steps out, worker and ps serve."""
    import tensorflow as tf

    if ctx.job_name != "chief":
        server = tf.distribute.Server(ctx.cluster_spec, ctx.job_name, ctx.task_index)
        if ctx.job_name == "ps":
            server.join()
        ctx.hold()
    strategy = tf.distribute.ParameterServerStrategy(tf.distribute.cluster_resolver.TFConfigClusterResolver())
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        total = tf.Variable(0, dtype=tf.int64)

    @tf.function
    def step(numbers):
        strategy.run(lambda numbers: total.assign_add(tf.reduce_sum(numbers)), (numbers,))

    feed = ctx.get_data_feed()
    while not feed.should_stop():
        rows = feed.next_batch(50)
        if rows:
            coordinator.schedule(step, args=(tf.constant(rows, tf.int64),))
    coordinator.join()
    note(args.out, ctx, [int(total.numpy()), total.device])


@pytest.mark.long
@pytest.mark.tensorflow
def test_parameter_server_strategy(sc, out):
    how = {"driver_ps_nodes": True, "master_node": "chief", "input_mode": SPARK}
    cluster = TFCluster.run(sc, coordinated, argparse.Namespace(out=out), 3, 1, **how)
    cluster.train(sc.parallelize(range(1000), 4), 1)
    cluster.shutdown()
    total, device = noted(out)[0]
    assert (total, device) == (sum(range(1000)), "/job:ps/replica:0/task:0/device:CPU:0")


def on_an_executor(folder):
    """What programs call beside the feed, in a task; returns what each gave."""
    import tensorflow as tf

    from tfos_fast.compat import TFManager, compat, gpu_info, marker, util

    home = Path(folder, str(os.getpid()))
    home.mkdir()
    smi = home / "nvidia-smi"
    smi.write_text('#!/bin/sh\ncase "$*" in *compute-apps*) ;; *index,uuid*) printf "0, a\\n1, b\\n";; *) echo GPU;; esac\n')
    smi.chmod(0o755)
    before = dict(os.environ), os.getcwd()
    manager = TFManager.start(b"key", ["input", "output"])
    try:
        os.environ["PATH"] = f"{home}{os.pathsep}{os.environ['PATH']}"
        os.chdir(home)
        options = tf.data.Options()
        compat.disable_auto_shard(options)
        found = {
            "paths": [
                TFNode.hdfs_path(TFSparkNode.TFNodeContext(defaultFS="hdfs://n:1", working_dir="/w"), p) for p in ("/a", "s3://b/c")
            ],
            "gpu": [gpu_info.is_gpu_available(), gpu_info.get_gpus(1, 1), gpu_info.get_gpus(2, -1, gpu_info.AS_LIST)],
            "compat": [compat.is_gpu_available(), options.experimental_distribute.auto_shard_policy.name],
        }
        util.write_executor_id(3)
        util.single_node_env(1)
        found["util"] = [
            util.read_executor_id(), util.get_ip_address().count("."), os.environ["CUDA_VISIBLE_DEVICES"] in ("0", "1"),
            Path(util.find_in_path(os.environ["PATH"], "nvidia-smi")) == smi,
        ]  # fmt: skip
        for row in [1, 2, marker.EndPartition(), 3, None]:
            TFManager.connect(manager.address, b"key").get_queue("input").put(row)
        feed = TFNode.DataFeed(manager, train_mode=False)
        found["queues"] = [feed.next_batch(5), feed.next_batch(5), feed.should_stop()]
        manager.set("state", "stopped")
        found["state"] = TFManager.connect(manager.address, b"key").get("state")
        return found
    finally:
        manager.shutdown()
        os.chdir(before[1])
        os.environ.clear()
        os.environ.update(before[0])


def test_what_programs_call_works_in_a_task(sc, tmp_path):
    folder = str(tmp_path)
    results = sc.parallelize(range(2), 2).map(lambda _: on_an_executor(folder)).collect()
    assert results == 2 * [
        {
            "paths": ["hdfs://n:1/a", "s3://b/c"],
            "gpu": [True, "1", ["0", "1"]],
            "compat": [False, "OFF"],
            "util": [3, 3, True, True],
            "queues": [[1, 2], [3], True],
            "state": "stopped",
        }
    ]


def sleep_on(args, ctx):
    """Never returns."""
    time.sleep(600)


def test_shutdown_ends_what_does_not_return_in_time(sc):
    cluster = run(sc, sleep_on, None)
    with pytest.raises(ClusterTimeout, match=r"worker:0.* still run"):
        cluster.shutdown(timeout=1)
