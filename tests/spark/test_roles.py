"""Chief, workers, ps and evaluator on two executors of two cores and on the driver; asynchronous training."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest

import tfos_fast
from tests.support.ports import can_bind
from tests.support.spark_feeds import wait_for
from tfos_fast.cluster import InputMode
from tfos_fast.cluster.protocol.identity import this_process
from tfos_fast.errors import ClusterError, MissingDependency, PortUnavailable, RoleError

MASTER = "local-cluster[2,2,1024]"
SMALL = {"memory": "8m"}


def leave(args, ctx, value):
    """Leave a value for the test, whole or not at all."""
    unfinished = Path(args["out"], f"{ctx.job_name}-{ctx.task_index}.new")
    unfinished.write_text(json.dumps(value))
    unfinished.rename(unfinished.with_suffix(".json"))


def left(out):
    return {path.stem: json.loads(path.read_text()) for path in Path(out).glob("*.json")}


def every_role(args, ctx):
    """What a node of any role sees; those that train read all rows, the others serve for ever."""
    mine = ctx.cluster_spec.get(ctx.job_name, [None])[ctx.task_index]
    seen = {
        "executor_id": ctx.executor_id,
        "num_workers": ctx.num_workers,
        "cluster_spec": ctx.cluster_spec,
        "tf_config": json.loads(os.environ["TF_CONFIG"]),
        "broadcast": args["broadcast"].value,
        "gateway": [name for name in os.environ if "GATEWAY" in name],
        "bind": mine and can_bind(mine),
        "parent": os.getppid(),
    }
    if ctx.job_name in ("ps", "evaluator"):
        try:
            ctx.get_data_feed()
        except RoleError as error:
            seen["refused"] = str(error)
        leave(args, ctx, seen)
        time.sleep(3600)
    rows = []
    if args["feed"]:
        feed = ctx.get_data_feed()
        while not feed.should_stop():
            rows += feed.next_batch(10)
    elif mine:
        seen["before"] = seen["bind"]
        ctx.release_port()
        seen["bind"] = can_bind(mine)
    leave(args, ctx, seen | {"rows": rows})


def test_only_those_that_train_are_fed_and_waited_for(sc, out):
    args = {"out": out, "feed": True, "broadcast": sc.broadcast([1, 2])}
    cluster = tfos_fast.run(
        sc, every_role, args, 5, num_ps=2, driver_ps_nodes=True, master_node="chief", eval_node=True, **SMALL
    )  # fmt: skip
    with cluster:
        nodes = {node.name: node for node in cluster.nodes}
        assert list(nodes) == ["ps:0", "ps:1", "chief:0", "evaluator:0", "worker:0"]
        report = cluster.feed(sc.parallelize(range(1000), 4), epochs=2)
        assert set(report.rows_of_node) == {"chief:0", "worker:0"}
        assert (report.rows, report.ended_early) == (2000, {})
        deadline = time.monotonic() + 30
        while set(left(out)) < {"ps-0", "ps-1", "evaluator-0"}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    seen = left(out)
    assert sorted(seen["chief-0"]["rows"] + seen["worker-0"]["rows"]) == sorted(list(range(1000)) * 2)
    spec = {
        "ps": [nodes["ps:0"].endpoint, nodes["ps:1"].endpoint],
        "chief": [nodes["chief:0"].endpoint],
        "worker": [nodes["worker:0"].endpoint],
    }
    for number, name in enumerate(nodes):
        it = seen[name.replace(":", "-")]
        job, index = name.split(":")
        assert (it["executor_id"], it["num_workers"], it["broadcast"]) == (number, 2, [1, 2])
        assert it["cluster_spec"] == spec
        assert it["tf_config"] == {"cluster": spec, "task": {"type": job, "index": int(index)}}
        assert it["bind"] is (None if job == "evaluator" else True)
        assert it["gateway"] == []
        assert (nodes[name].executor == this_process()) == (job == "ps")
    assert "ps:0 gets no rows" in seen["ps-0"]["refused"]
    assert "evaluator:0 gets no rows" in seen["evaluator-0"]["refused"]


def test_a_program_that_reads_for_itself_with_ps_and_evaluator(sc, out):
    args = {"out": out, "feed": False, "broadcast": sc.broadcast(3)}
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        tfos_fast.run(
            sc, every_role, args, 3, num_ps=1, eval_node=True, input_mode=InputMode.TENSORFLOW, release_port=False,
            tensorflow_port=f"{other.getsockname()[1]}-{other.getsockname()[1] + 30}",
        ) as cluster,
    ):  # fmt: skip
        ports = [int(node.endpoint.rpartition(":")[2]) for node in cluster.nodes]
        assert all(0 < port - other.getsockname()[1] <= 30 for port in ports)
        with pytest.raises(ClusterError, match=r"InputMode\.SPARK"):
            cluster.feed(sc.parallelize([1]))
    seen = left(out)  # only the worker was waited for
    assert seen["worker-0"]["before"] is False
    assert seen["worker-0"]["bind"] is True


def test_a_node_has_an_executor_of_its_own_however_many_cores(sc, out):
    for _ in range(2):
        with tfos_fast.reserve(sc, 2, **SMALL) as cluster:
            assert len({node.executor.pid for node in cluster.nodes}) == 2


def test_ports_that_are_taken(sc):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortUnavailable, match=rf"port {port} is taken at 127.0.0.1.*tensorflow_port, or TENSORFLOW_PORT"):
            tfos_fast.reserve(sc, 2, tensorflow_port=port, **SMALL)
        with pytest.raises(PortUnavailable, match=rf"port {port} is taken at 127.0.0.1.*TFOS_SERVER_PORT"):
            tfos_fast.reserve(sc, 2, server_port=port, **SMALL)


def test_the_coordinator_where_the_environment_says(sc, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    monkeypatch.setenv("TFOS_SERVER_HOST", "localhost")
    monkeypatch.setenv("TFOS_SERVER_PORT", f"{port}-{port + 9}")
    with tfos_fast.reserve(sc, 1, **SMALL) as cluster:
        host, _, number = cluster._coordinator.keys.endpoint.removeprefix("tcp://").rpartition(":")
        assert host == "localhost"
        assert port <= int(number) <= port + 9
    with tfos_fast.reserve(sc, 1, server_host="127.0.0.1", server_port=0, **SMALL) as cluster:  # settings go first
        assert cluster._coordinator.keys.endpoint.startswith("tcp://127.0.0.1:")


def watched(args, ctx):
    """Read all rows; then wait until the test has seen TensorBoard."""
    if args.get("feed"):
        feed = ctx.get_data_feed()
        rows = 0
        while rows < args["feed"]:
            rows += len(feed.next_batch(100))
    while not Path(args["out"], "seen").exists():
        time.sleep(0.01)


BOARD = importlib.util.find_spec("tensorboard") is not None


@pytest.mark.skipif(BOARD, reason="tensorboard is installed")
def test_without_tensorboard(sc, out):
    with pytest.raises(MissingDependency, match=r"worker:0 .* pip install tensorboard"):
        tfos_fast.run(sc, watched, {"out": out}, 1, tensorboard=True, **SMALL)


@pytest.mark.skipif(not BOARD, reason="tensorboard is not installed")
def test_tensorboard_on_the_chief_shows_the_feed(sc, out):
    def ask(path):
        try:
            with urllib.request.urlopen(f"{url}/data/{path}", timeout=10) as answer:
                return json.load(answer)
        except OSError:
            return None

    def rows():
        """What it shows: node -> rows."""
        tags = ask("plugin/scalars/tags") or {}
        found = {run.partition("/")[2]: ask(f"plugin/scalars/scalars?run={run}&tag=feed%2Frows") for run in tags}
        return {node: int(points[-1][2]) for node, points in found.items() if points}

    with tfos_fast.run(
        sc, watched, {"out": out, "feed": 500}, 2, master_node="chief", tensorboard=True, log_dir=out, **SMALL
    ) as cluster:
        url = cluster.tensorboard_url()
        feeding = threading.Thread(target=lambda: cluster.feed(sc.parallelize(range(1000), 2)))
        feeding.start()
        wait_for(lambda: ask("environment"), "TensorBoard", 50)
        assert ask("environment")["data_location"] == out
        wait_for(lambda: rows() == {"chief_0": 500, "worker_0": 500}, "the rows of both nodes", 50)
        (run, *_) = ask("plugin/scalars/tags")
        assert set(ask("plugin/scalars/tags")[run]) == {
            "feed/rows", "feed/rows_per_second", "feed/MiB", "feed/seconds_without_data", "feed/seconds_without_space",
        }  # fmt: skip
        Path(out, "seen").touch()
        feeding.join()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=10)


def between_graph(args, ctx):
    """TensorFlow 1: a server in every process, variables on the ps, each worker runs its own graph."""
    import tensorflow as tf

    v1 = tf.compat.v1
    v1.disable_eager_execution()
    server = v1.train.Server(ctx.cluster_spec, ctx.job_name, ctx.task_index)
    if ctx.job_name == "ps":
        server.join()
    me = f"/job:worker/task:{ctx.task_index}"
    with v1.device(v1.train.replica_device_setter(worker_device=me, cluster=ctx.cluster_spec)):
        x, y = v1.placeholder(tf.float32, [None]), v1.placeholder(tf.float32, [None])
        w = v1.get_variable("w", [], initializer=v1.zeros_initializer())
        rows = v1.get_variable("rows", [], tf.int64, initializer=v1.zeros_initializer())
        step = v1.train.get_or_create_global_step()
        loss = tf.reduce_mean((w * x - y) ** 2)
        train = v1.train.GradientDescentOptimizer(0.1).minimize(loss, global_step=step)
        count = v1.assign_add(rows, tf.size(x, out_type=tf.int64), use_locking=True)
    ready = Path(args["out"], "ready")
    while ctx.task_index and not ready.exists():  # else the session looks again after 30 s only
        time.sleep(0.01)
    feed = ctx.get_data_feed()
    config = v1.ConfigProto(device_filters=["/job:ps", me])
    mine = 0
    with v1.train.MonitoredTrainingSession(master=server.target, is_chief=ctx.task_index == 0, config=config) as session:
        ready.touch()
        while not feed.should_stop():
            batch = feed.next_batch(50)
            if batch:
                session.run([train, count], {x: [row[0] for row in batch], y: [row[1] for row in batch]})
                mine += len(batch)
        leave(args, ctx, {"mine": mine, "all": int(session.run(rows)), "w": float(session.run(w)), "where": w.device})


@pytest.mark.tensorflow
def test_between_graph_replication(sc, out):
    rows = sc.parallelize([(i / 1000, 3 * i / 1000) for i in range(1000)], 4)
    with tfos_fast.run(sc, between_graph, {"out": out}, 3, num_ps=1, **SMALL) as cluster:
        assert cluster.feed(rows, epochs=3).rows == 3000
    seen = left(out)
    assert set(seen) == {"worker-0", "worker-1"}
    assert sum(it["mine"] for it in seen.values()) == 3000
    assert max(it["all"] for it in seen.values()) == 3000  # the one that ended last
    assert {it["where"] for it in seen.values()} == {"/job:ps/task:0"}
    assert abs(seen["worker-0"]["w"] - 3) < 1


def coordinated(args, ctx):
    """TensorFlow 2: the chief gives out steps, workers and ps hold."""
    import tensorflow as tf

    if ctx.job_name != "chief":
        server = tf.distribute.Server(ctx.cluster_spec, ctx.job_name, ctx.task_index)
        assert server.target
        ctx.hold()
    strategy = tf.distribute.ParameterServerStrategy(tf.distribute.cluster_resolver.TFConfigClusterResolver())
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        w, rows = tf.Variable(0.0), tf.Variable(0, dtype=tf.int64)

    @tf.function
    def step(x, y):
        def replica(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((w * x - y) ** 2)
            w.assign_sub(0.1 * tape.gradient(loss, w))
            rows.assign_add(tf.size(x, out_type=tf.int64))

        strategy.run(replica, (x, y))

    for x, y in ctx.get_data_feed().tensors(64, spec=("float32", "float32")):
        coordinator.schedule(step, args=(x, y))
    coordinator.join()
    leave(args, ctx, {"rows": int(rows.numpy()), "w": float(w.numpy()), "where": w.device})


@pytest.mark.long
@pytest.mark.tensorflow
def test_parameter_server_strategy(sc, out):
    rows = sc.parallelize([(i / 1000, 3 * i / 1000) for i in range(1000)], 4)
    cluster = tfos_fast.run(sc, coordinated, {"out": out}, 3, num_ps=1, driver_ps_nodes=True, master_node="chief", **SMALL)
    with cluster:
        report = cluster.feed(rows, epochs=3)
        assert report.rows_of_node["chief:0"] == report.rows == 3000
    seen = left(out)["chief-0"]
    assert seen["rows"] == 3000
    assert abs(seen["w"] - 3) < 1
    assert "ps" in seen["where"]
