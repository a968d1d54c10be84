"""Two executors with one core each: rows, results, surroundings, failures."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from pathlib import Path

import msgspec
import pytest
from pyspark.sql import Row, SparkSession

import tfos_fast
from tests.spark import mains
from tests.spark.mains import noted
from tests.support.spark_feeds import Suicide, check_once_and_in_order, fed, numbered, wait_for
from tfos_fast.cluster import InputMode
from tfos_fast.errors import ClusterError, MainNotPicklable, NodeFailed, NodeKilled, NotEnoughMemory, NotEnoughSlots, TfosError

MASTER = "local-cluster[2,1,1024]"
SMALL = {"memory": "8m"}


@pytest.fixture(scope="module")
def session(sc):
    return SparkSession(sc)


def on_another_host(cluster):
    """What the cluster's tasks see: no node whose memory they could attach to."""
    cluster.nodes = tuple(msgspec.structs.replace(node, address="tfos:1:1:1:00:/nowhere") for node in cluster.nodes)


def test_rows_arrive_once_and_in_order(sc, out):
    sizes = [1000, 3, 0, 5000, 1, 777]
    with tfos_fast.run(sc, mains.collect, {"out": out}, 2, **SMALL) as cluster:
        assert [node.name for node in cluster.nodes] == ["worker:0", "worker:1"]
        assert len({node.executor.pid for node in cluster.nodes}) == 2
        report = cluster.feed(numbered(sc, sizes))
        assert report.rows == sum(sizes)
        assert sum(report.rows_of_node.values()) == sum(sizes)
        assert report.ended_early == {}
    nodes = noted(out)
    assert set(nodes) == {0, 1}
    check_once_and_in_order(nodes, sizes)


def test_epochs_and_several_feeds(sc, session, out):
    sizes = [100, 250]
    with tfos_fast.run(session, mains.collect, {"out": out}, 2, **SMALL) as cluster:
        assert cluster.train(numbered(sc, sizes), num_epochs=2).rows == 700
        assert cluster.feed(numbered(sc, sizes)).epochs == 1
    check_once_and_in_order(noted(out), sizes, epochs=3)


def test_empty_rdd_and_empty_partitions(sc, out):
    with tfos_fast.run(sc, mains.collect, {"out": out}, 2, **SMALL) as cluster:
        assert cluster.feed(sc.emptyRDD()).rows == 0
        assert cluster.feed(sc.parallelize([], 4)).rows == 0
        assert cluster.feed(sc.parallelize([7], 4)).rows == 1
    assert sorted(row for rows in noted(out).values() for row in rows) == [7]


def test_dataframe(session, sc, out):
    frame = session.range(3000, numPartitions=3).selectExpr("id", "cast(id * 0.5 as double) as x", "cast(id as string) as name")
    with tfos_fast.run(sc, mains.collect, {"out": out}, 2, **SMALL) as cluster:
        assert cluster.feed(frame).rows == 3000
        assert cluster.feed(frame.where("id < 0")).rows == 0
    rows = sorted((row["id"], row["x"], row["name"]) for rows in noted(out).values() for row in map(as_dict, rows))
    assert rows == [(i, i * 0.5, str(i)) for i in range(3000)]


def as_dict(row):
    return row if isinstance(row, dict) else dict(zip(("id", "x", "name"), row, strict=True))


def test_infer_rdd(sc, out):
    with tfos_fast.run(sc, mains.square, {}, 2, **SMALL) as cluster:
        results = cluster.infer(sc.parallelize(range(1000), 5))
        for _ in range(2):  # it is lazy, and may be evaluated again
            assert results.collect() == [i * i for i in range(1000)]
        assert cluster.inference(sc.parallelize([3], 3)).collect() == [9]
        assert results.zip(results).take(3) == [(0, 0), (1, 1), (4, 4)]


def test_infer_dataframe(session, sc, out):
    frame = session.range(500, numPartitions=3).selectExpr("id", "cast(id * 0.5 as double) as x")
    with tfos_fast.run(sc, mains.label, {}, 2, **SMALL) as cluster:
        results = cluster.infer(frame, schema="id long, twice double")
        assert results.columns == ["id", "twice"]
        assert [tuple(row) for row in results.orderBy("id").collect()] == [(i, float(i)) for i in range(500)]
        learned = cluster.infer(frame)
        assert dict(learned.dtypes) == {"id": "bigint", "twice": "double"}
        assert learned.where("twice = 7").collect() == [Row(id=7, twice=7.0)]
        with pytest.raises(ClusterError, match="give infer"):
            cluster.infer(frame.where("id < 0"))


def test_surroundings(sc, out, tmp_path):
    (tmp_path / "words.txt").write_text("from the driver")
    (tmp_path / "tfos_test_module.py").write_text("NAME = 'shipped'")
    sc.addFile(str(tmp_path / "words.txt"))
    sc.addPyFile(str(tmp_path / "tfos_test_module.py"))
    shared = sc.broadcast({"weights": list(range(10))})
    with tfos_fast.run(sc, mains.describe, {"out": out, "broadcast": shared}, 2, **SMALL):
        pass
    seen = noted(out)
    assert set(seen) == {0, 1}
    for i, it in seen.items():
        assert (it["job_name"], it["executor_id"], it["num_workers"]) == ("worker", i, 2)
        assert len(set(it["cluster_spec"]["worker"])) == 2
        assert json.loads(it["tf_config"]) == {"cluster": it["cluster_spec"], "task": {"type": "worker", "index": i}}
        assert it["environ"] == "set"
        assert it["file"] == "from the driver"
        assert it["module"] == "shipped"
        assert it["broadcast"] == {"weights": list(range(10))}
        assert it["session"] == it["pid"]
        log = Path(it["cwd"], "stderr").read_text()  # of its executor
        assert f"worker:{i} was here" in log
        assert f"worker:{1 - i} was here" not in log
    assert len({it["cwd"] for it in seen.values()}) == 2  # each in its executor's folder


def test_list_of_arguments_becomes_argv(sc, out):
    with tfos_fast.run(sc, mains.arguments, [out, "--steps", 5], 2, **SMALL):
        pass
    assert noted(out) == {0: [out, "--steps", "5"], 1: [out, "--steps", "5"]}


def test_exception_in_main_is_raised_by_feed(sc, out):
    with (
        pytest.raises(NodeFailed, match=r"seen .* rows, that is too many") as caught,
        tfos_fast.run(sc, mains.fail_at, {"node": 1, "rows": 40}, 2, **SMALL) as cluster,
    ):
        cluster.feed(numbered(sc, [100_000] * 4))
    assert caught.value.node == "worker:1"
    assert "in fail_at" in caught.value.remote_traceback
    assert "ArithmeticError" in str(caught.value)


def test_exception_after_the_feed_is_raised_by_shutdown(sc, out):
    cluster = tfos_fast.run(sc, mains.fail_late, {}, 2, **SMALL)
    cluster.feed(numbered(sc, [50, 50]))
    with pytest.raises(NodeFailed, match="the model could not be saved") as caught:
        cluster.shutdown()
    assert caught.value.node == "worker:1"
    cluster.shutdown()  # again: nothing happens
    with pytest.raises(ClusterError, match="shut down"):
        cluster.feed(sc.parallelize([1]))


def test_shutdown_tells_how_each_node_fared(sc, out):
    cluster = tfos_fast.run(sc, mains.collect, {"out": out}, 2, **SMALL)
    beats = lambda: [node.beat for node in cluster._coordinator.nodes.values()]  # noqa: E731
    wait_for(lambda: all(beat and beat.reader for beat in beats()), "a reader at each node")  # from here on they wait for data
    cluster.feed(numbered(sc, [500, 700]))
    report = cluster.shutdown()
    assert cluster.shutdown() is report
    assert set(report.nodes) == {"worker:0", "worker:1"}
    assert [node.status for node in report.nodes.values()] == [0, 0]
    assert sum(node.rows for node in report.nodes.values()) == 1200
    assert sum(node.bytes for node in report.nodes.values()) >= 1200 * 16
    assert all(node.waited_for_data > 0 for node in report.nodes.values() if node.rows)
    assert report.failures == ()
    assert "worker:0: exit status 0" in str(report)


def test_failures_of_several_nodes_are_all_told(sc, out):
    go = Path(out, "go")
    cluster = tfos_fast.run(sc, mains.fail_everywhere, {"go": str(go)}, 2, **SMALL)
    go.touch()
    # The end of one node ends the others: what is told of is what has been heard of before that.
    wait_for(lambda: len(cluster._coordinator.failures) == 2, "the failures of both nodes")
    with pytest.raises(NodeFailed, match=r"(?s)LookupError: the model of \d .*And then: worker:\d.*LookupError") as caught:
        cluster.shutdown()
    assert {caught.value.node, *(other.node for other in caught.value.others)} == {"worker:0", "worker:1"}
    assert "a last line" in caught.value.log_tail
    assert "LookupError" not in caught.value.log_tail  # it is in the traceback
    report = cluster.shutdown()
    assert len(report.failures) == 2
    assert {node.status for node in report.nodes.values()} <= {1, -signal.SIGTERM}  # those that had not ended yet were told to


def test_failed_cluster_says_so_again(sc, out):
    with tfos_fast.run(sc, mains.fail_at, {"node": 0, "rows": 1}, 2, **SMALL) as cluster:
        with pytest.raises(NodeFailed):
            cluster.feed(numbered(sc, [1000] * 2))
        with pytest.raises(ClusterError, match=r"has failed before: worker:0 .*ArithmeticError"):
            cluster.feed(sc.parallelize([1]))


def kill_when_fed(out, cluster, number, killed):
    """SIGKILL a trainer once its node has rows."""

    def run():
        pid = wait_for(lambda: noted(out, "pid").get(number), "the trainer")
        wait_for(lambda: fed(cluster, f"worker:{number}"), "a row")
        killed.append(time.monotonic())
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_killed_trainer_is_named(sc, out, record_property):
    killed = []
    with tfos_fast.run(sc, mains.slow, {"out": out}, 2, **SMALL) as cluster:
        thread = kill_when_fed(out, cluster, 1, killed)
        with pytest.raises(NodeKilled, match=r"worker:1 on .*killed by signal 9 \(SIGKILL\)") as caught:
            cluster.feed(numbered(sc, [100_000] * 4))
        record_property("seconds from SIGKILL to the exception", time.monotonic() - killed[0])
        thread.join()
    assert (caught.value.signal, caught.value.node) == (9, "worker:1")


def test_killed_feeder_is_tried_again_and_rows_come_once(sc, out, tmp_path):
    sizes = [2000, 30_000, 2000]
    rows = numbered(sc, sizes).mapPartitionsWithIndex(Suicide(str(tmp_path / "killed"), 20_000))
    with tfos_fast.run(sc, mains.collect, {"out": out}, 2, memory="1m", slot_bytes="64k") as cluster:
        report = cluster.feed(rows)
    assert (tmp_path / "killed").exists()
    assert report.rows == sum(sizes)
    seen = {}
    for node_rows in noted(out).values():
        for partition, row in node_rows:
            seen.setdefault(partition, []).append(row)
    # The second attempt may have gone to the other node: then the order between the two nodes' parts is by rows.
    assert {p: sorted(r) for p, r in seen.items()} == {p: list(range(n)) for p, n in enumerate(sizes)}


@pytest.mark.parametrize("how", ["terminate", "return"])
def test_nodes_that_have_enough_end_the_feed(sc, out, how):
    """At once: its tasks would never end by themselves, and most have not begun."""

    def partition(p):
        for row in itertools.count():
            yield p, row
            if row > 20_000:
                time.sleep(0.01)

    with tfos_fast.run(sc, mains.stop_early, {"out": out, "rows": 100, "how": how}, 2, **SMALL) as cluster:
        report = cluster.feed(sc.parallelize(range(8), 8).flatMap(partition), epochs=3)
        assert not sc.statusTracker().getActiveJobsIds()
        why = {"terminate": "called terminate()", "return": "returned from main"}[how]
        assert report.ended_early == {"worker:0": why, "worker:1": why}
        assert report.epochs == 1
    assert set(noted(out)) == {0, 1}


def test_tensorflow_mode_is_not_fed(sc, out):
    with tfos_fast.run(sc, mains.alone, {"out": out}, 2, input_mode=InputMode.TENSORFLOW, **SMALL) as cluster:
        with pytest.raises(ClusterError, match=r"InputMode\.SPARK"):
            cluster.feed(sc.parallelize([1]))
    assert noted(out) == {0: 2, 1: 2}


def test_reserve_alone_and_start_later(sc, session, out):
    with tfos_fast.reserve(session, 2, **SMALL) as cluster:
        with pytest.raises(ClusterError, match=r"call cluster.start\(main, args\) before feed"):
            cluster.feed(sc.parallelize([1]))
        cluster.start(mains.collect, {"out": out})
        with pytest.raises(ClusterError, match="started already"):
            cluster.start(mains.collect, {"out": out})
        cluster.feed(sc.parallelize(range(10), 2))
    assert sorted(row for rows in noted(out).values() for row in rows) == list(range(10))


def test_too_few_slots_are_told_at_once(sc):
    with pytest.raises(NotEnoughSlots, match=r"3 nodes need 3 task slots.* 2\. .*local-cluster\[executors"):
        tfos_fast.reserve(sc, 3, **SMALL)


def test_too_little_memory_is_told(sc):
    with pytest.raises(NotEnoughMemory, match="memory"):
        tfos_fast.reserve(sc, 2, memory="100t")


def test_main_that_cannot_be_pickled(sc):
    lock = threading.Lock()

    def main(args, ctx):
        with lock:
            pass

    with pytest.raises(MainNotPicklable, match=r"main or its arguments.*main's outer variable 'lock' .a _thread.lock"):
        tfos_fast.run(sc, main, [], 1000, **SMALL)  # nothing is reserved before
    with pytest.raises(MainNotPicklable, match="SparkContext"):
        tfos_fast.run(sc, lambda args, ctx: sc, [], 2, **SMALL)


def test_error_in_the_users_rdd_is_sparks_own(sc, out):
    with (
        tfos_fast.run(sc, mains.collect, {"out": out}, 2, **SMALL) as cluster,
        pytest.raises(Exception, match="ZeroDivisionError") as caught,  # Py4JJavaError, or PythonException with Spark SQL
    ):
        cluster.feed(sc.parallelize(range(10), 2).map(lambda x: 1 // (x - 5)))
    assert not isinstance(caught.value, TfosError)


def test_one_node_for_two_executors(sc, out):
    """The other executor's tasks feed the node of their host."""
    sizes = [500] * 6
    with tfos_fast.run(sc, mains.collect, {"out": out}, 1, **SMALL) as cluster:
        assert cluster.feed(numbered(sc, sizes)).rows_of_node == {"worker:0": 3000}
    check_once_and_in_order(noted(out), sizes)


def test_death_of_an_executor_is_an_error(sc, out):
    """Last, because Spark then brings up another executor."""
    with tfos_fast.run(sc, mains.slow, {"out": out}, 2, **SMALL) as cluster:
        victim = cluster.nodes[0].executor.pid

        def kill():
            wait_for(lambda: fed(cluster, "worker:0"), "a row")
            os.kill(victim, signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(NodeKilled, match=rf"worker:0 on .* its Spark executor \(process {victim}\) died"):
            cluster.feed(numbered(sc, [100_000] * 4))
        thread.join()


def test_tasks_without_a_node_on_their_host_reach_one_over_the_network(sc, session, out):
    """tests/multihost has real hosts."""
    sizes = [2000, 5, 0, 3000, 1, 700]
    with tfos_fast.run(sc, mains.collect, {"out": out}, 1, **SMALL) as cluster:
        assert cluster.nodes[0].feed_endpoint.startswith("127.0.0.1:")
        on_another_host(cluster)
        assert cluster.feed(numbered(sc, sizes)).rows == sum(sizes)
    check_once_and_in_order(noted(out), sizes)
    with tfos_fast.run(sc, mains.label, {}, 1, **SMALL) as cluster:
        on_another_host(cluster)
        frame = session.range(300, numPartitions=4).selectExpr("id", "cast(id as double) as x")
        results = cluster.infer(frame, schema="id long, twice double")
        assert [tuple(row) for row in results.collect()] == [(i, 2.0 * i) for i in range(300)]
    with pytest.raises(NodeFailed, match="that is too many") as caught:
        with tfos_fast.run(sc, mains.fail_at, {"node": 0, "rows": 100}, 1, **SMALL) as cluster:
            on_another_host(cluster)
            cluster.feed(numbered(sc, [10**6] * 4))
    assert "ArithmeticError" in caught.value.remote_traceback
