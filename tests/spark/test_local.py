"""One process with four slots: several feed tasks at one node, waits that end, bad rows."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import psutil
import pytest

import tfos_fast
from tests.spark import mains
from tests.spark.mains import noted
from tests.support.spark_feeds import check_once_and_in_order, fed, numbered, wait_for
from tfos_fast.cluster.driver import watch
from tfos_fast.errors import ClusterError, FormError, NodeFailed, NodeKilled, NotEnoughSlots, RowTooLarge, StallTimeout, TfosError

MASTER = "local[4]"
SMALL = {"memory": "8m"}


@pytest.mark.parametrize("nodes", [1, 2])
def test_several_feed_tasks_at_one_node(sc, out, nodes):
    sizes = [4000, 10, 0, 9000, 1, 2500, 3000, 4000]
    with tfos_fast.run(sc, mains.collect, {"out": out}, nodes, **SMALL) as cluster:
        report = cluster.feed(numbered(sc, sizes))
        assert report.rows == sum(sizes)
        assert all(report.rows_of_node.values())  # nobody stays hungry
    check_once_and_in_order(noted(out), sizes)


def test_infer_with_several_tasks(sc):
    with tfos_fast.run(sc, mains.square, {"batch": 64}, 2, **SMALL) as cluster:
        assert cluster.infer(sc.parallelize(range(3000), 7)).collect() == [i * i for i in range(3000)]
        # Nobody outside of this machine is listened to.
        ours = [os.getpid(), *(node.agent.pid for node in cluster.nodes)]
        open_ports = [c.laddr for pid in ours for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert int(cluster._coordinator.keys.endpoint.rpartition(":")[2]) in [address.port for address in open_ports]
        assert {address.ip for address in open_ports} <= {"127.0.0.1", "::1"}


def test_a_partition_larger_than_the_memory_passes_through(sc, out):
    rows = sc.parallelize(range(2), 2).flatMap(lambda p: ((p, i, np.full(250, i, np.float32)) for i in range(5000)))
    with tfos_fast.run(sc, mains.checksum, {"out": out}, 1, memory="1m", slot_bytes="64k") as cluster:
        assert cluster.feed(rows).rows == 10_000
    assert noted(out) == {0: {"rows": 10_000, "sum": 2 * 250 * sum(range(5000)), "in_order": True}}


def test_rows_of_changing_form_arrive_as_they_are(sc, out):
    rows = [1, 2.5, "three", [4], None, {"five": 5}, [6, 7], True]
    with tfos_fast.run(sc, mains.collect, {"out": out}, 1, **SMALL) as cluster:
        cluster.feed(sc.parallelize(rows, 1))
    assert noted(out)[0] == rows


def test_row_larger_than_a_slot(sc, out):
    with (
        tfos_fast.run(sc, mains.collect, {"out": out}, 1, memory="1m", slot_bytes="64k") as cluster,
        pytest.raises(RowTooLarge, match=r"^partition feed1/0/1, row 3: .*slot_bytes"),
    ):
        cluster.feed(sc.parallelize(["x" * (100_000 if i == 8 else 1) for i in range(10)], 2))


def test_trainer_that_does_not_go_on_ends_in_a_stall_timeout(sc, out):
    with (
        pytest.raises(StallTimeout, match="nothing moved") as caught,
        tfos_fast.run(sc, mains.deaf, {"out": out}, 1, memory="1m", slot_bytes="64k") as cluster,
    ):
        cluster.feed(numbered(sc, [100_000] * 2), feed_timeout=3)
    text = str(caught.value)
    assert "worker:0" in text or "slot" in text


def test_a_slow_feed_lasts_longer_than_its_timeout(sc, out):
    """The timeout is for feeds in which nothing moves."""
    rows = sc.parallelize(range(2), 2).flatMap(lambda p: ((p, i, b"x" * 300) for i in range(1500)))
    with tfos_fast.run(sc, mains.slow_count, {"out": out}, 1, memory="64k", slot_bytes="16k") as cluster:
        report = cluster.feed(rows, feed_timeout=4)
    assert report.seconds > 4
    assert noted(out) == {0: 3000}


def test_interrupt_cancels_the_feed(sc, out):
    with (
        pytest.raises(KeyboardInterrupt),
        tfos_fast.run(sc, mains.slow, {"out": out}, 2, **SMALL) as cluster,
    ):
        main_thread = threading.main_thread().ident

        def interrupt():
            wait_for(lambda: fed(cluster, "worker:0"), "a row")
            signal.pthread_kill(main_thread, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        cluster.feed(numbered(sc, [100_000] * 4))
    thread.join()
    wait_for(lambda: not sc.statusTracker().getActiveJobsIds(), "the end of the job")


@pytest.mark.parametrize("killed", [signal.SIGKILL, pytest.param(signal.SIGSEGV, marks=pytest.mark.long)])
def test_killed_agent_is_named(sc, out, killed):
    with tfos_fast.run(sc, mains.slow, {"out": out}, 2, **SMALL) as cluster:
        agent = cluster.nodes[1].agent.pid

        def kill():
            wait_for(lambda: fed(cluster, "worker:1"), "a row")
            os.kill(agent, killed)

        thread = threading.Thread(target=kill)
        thread.start()
        how = rf"was killed by signal {killed:d} \({killed.name}\)"
        with pytest.raises(NodeKilled, match=rf"worker:1 on .* its agent \(process {agent}\) {how}") as caught:
            cluster.feed(numbered(sc, [100_000] * 4))
        thread.join()
    assert caught.value.signal == killed


def test_failure_between_feeds_is_raised_by_the_next(sc, out):
    with (
        pytest.raises(NodeFailed, match="later"),
        tfos_fast.run(sc, mains.fail_in_a_moment, {"out": out}, 1, **SMALL) as cluster,
    ):
        cluster.feed(sc.parallelize(range(10), 1))
        wait_for(lambda: cluster._coordinator.failure, "the failure")
        cluster.feed(sc.parallelize(range(10), 1))


def test_node_that_ends_leaves_the_rest_to_the_other(sc, out):
    gate = Path(out, "worker 0 has ended")

    def partition(p):
        while p >= 4 and not gate.exists():
            time.sleep(0.01)
        return ((p, row) for row in range(20_000))

    with tfos_fast.run(sc, mains.one_of_two, {"out": out}, 2, **SMALL) as cluster:

        def open_gate():
            wait_for(lambda: not cluster._coordinator.nodes["worker:0"].eats, "the end of worker:0", 60)
            gate.touch()

        thread = threading.Thread(target=open_gate)
        thread.start()
        report = cluster.feed(sc.parallelize(range(8), 8).flatMap(partition))
        thread.join()
        assert report.ended_early == {"worker:0": "returned from main"}
        assert report.rows == sum(report.rows_of_node.values())
        assert report.rows_of_node["worker:1"] >= 4 * 20_000  # all that came after the end of the other
    assert set(noted(out)) == {0, 1}


def exactly(args, ctx):
    """Takes so many rows, and returns, or terminates."""
    feed, rows = ctx.get_data_feed(), 0
    while rows < args["rows"]:
        rows += len(feed.next_batch(min(50, args["rows"] - rows)))
    if args["how"] == "terminate":
        feed.terminate()


@pytest.mark.parametrize(("nodes", "how", "kind"), [(1, "return", "rows"), (2, "return", "pickled"), (1, "terminate", "frame")])
def test_who_takes_the_last_row_and_leaves_has_not_ended_early(sc, out, caplog, nodes, how, kind):
    with tfos_fast.run(sc, exactly, {"rows": 2000 // nodes, "how": how}, nodes, **SMALL) as cluster:
        data = sc.parallelize([(0, i) for i in range(2000)], 2) if kind == "pickled" else numbered(sc, [1000, 0, 1000])
        if kind == "frame":
            from pyspark.sql import SparkSession

            data = SparkSession(sc).createDataFrame(data, "part int, i int")
        # A feed waits two seconds for tasks whose node has left; the empty partition's needs longer where workers begin.
        warm = data.mapInArrow(lambda batches: batches, data.schema) if kind == "frame" else data
        assert warm.count() == 2000
        report = cluster.feed(data)
    assert (report.rows, report.partitions, report.rows_left, report.ended_early) == (2000, 2, {}, {})
    assert "ended early" not in caplog.text


@pytest.mark.parametrize("how", ["return", "terminate"])
@pytest.mark.parametrize(("rows", "sizes", "epochs"), [(900, [10_000], 1), (1000, [5000, 0, 5000], 1), (1000, [1000], 2)])
def test_who_leaves_rows_or_a_partition_or_an_epoch_has_ended_early(sc, out, caplog, how, rows, sizes, epochs):
    with tfos_fast.run(sc, exactly, {"rows": rows, "how": how}, 1, **SMALL) as cluster:
        report = cluster.feed(numbered(sc, sizes), epochs=epochs)
    assert report.ended_early == {"worker:0": "returned from main" if how == "return" else "called terminate()"}
    assert "ended early" in caplog.text


def test_tasks_that_have_not_begun_are_not_given_time(sc, out, monkeypatch):
    monkeypatch.setattr(watch, "LAST_TASKS", watch.THREE_DAYS)

    def rows(p):
        while p:  # these never end by themselves
            time.sleep(0.01)
        return ((0, i) for i in range(10_000))

    with tfos_fast.run(sc, exactly, {"rows": 500, "how": "terminate"}, 1, **SMALL) as cluster:
        report = cluster.feed(sc.parallelize(range(20), 20).flatMap(rows))
    assert report.ended_early == {"worker:0": "called terminate()"}
    assert not sc.statusTracker().getActiveJobsIds()


def test_partitions_of_a_feed_that_is_cut_off_are_counted(sc, out):
    def rows(p):
        while p >= 4:  # these never end by themselves
            time.sleep(0.01)
        return ((p, i) for i in range(100))

    def main(args, ctx):
        feed = ctx.get_data_feed()
        seen = [feed.next_batch(50) for _ in range(8)]
        time.sleep(0.5)  # the ends of the partitions follow their last rows
        feed.terminate()
        assert all(seen)

    with tfos_fast.run(sc, main, {}, 1, **SMALL) as cluster:
        report = cluster.feed(sc.parallelize(range(20), 20).flatMap(rows))
    assert (report.rows, report.partitions, list(report.ended_early)) == (400, 4, ["worker:0"])


def test_main_that_never_reads_does_not_hold_the_feed_up(sc, out):
    with tfos_fast.run(sc, mains.alone, {"out": out}, 2, **SMALL) as cluster:
        report = cluster.feed(numbered(sc, [1000] * 4), feed_timeout=30)
        assert (report.rows, report.ended_early) == (0, dict.fromkeys(("worker:0", "worker:1"), "returned from main"))


def test_exception_in_main_reaches_the_action_on_an_inference(sc, out):
    cluster = tfos_fast.run(sc, mains.bad_inference, {}, 1, **SMALL)
    results = cluster.infer(sc.parallelize(range(100), 2))
    with pytest.raises(Exception, match="cannot label 7"):
        results.collect()
    with pytest.raises(NodeFailed, match="cannot label 7"):
        cluster.shutdown()


def test_the_with_block_says_why_an_inference_failed(sc):
    with (
        pytest.raises(NodeFailed, match="cannot label 7") as caught,
        tfos_fast.run(sc, mains.bad_inference, {}, 1, **SMALL) as cluster,
    ):
        cluster.infer(sc.parallelize(range(100), 2)).collect()
    assert "in bad_inference" in caught.value.remote_traceback
    assert caught.value.spark_error is not None
    assert not isinstance(caught.value.spark_error, TfosError)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert any("cluster.infer(" in (frame.line or "") for frame in frames)  # the user's own line
    text = "".join(traceback.format_exception(caught.value))
    assert text.count("ValueError: cannot label 7") <= 2  # the sentence, and the trainer's traceback below it
    assert "at org.apache.spark" not in text
    with pytest.raises(ZeroDivisionError) as own, tfos_fast.run(sc, mains.square, {}, 1, **SMALL):
        raise ZeroDivisionError  # an error of the program's own stays as it is
    assert own.value.__cause__ is None


def test_an_inference_by_a_main_that_trains_fails_at_once(sc, out):
    with (
        pytest.raises(FormError, match=r"ctx.get_data_feed\(train_mode=False\)"),
        tfos_fast.run(sc, mains.collect, {"out": out}, 1, **SMALL) as cluster,
    ):
        cluster.infer(sc.parallelize(range(100), 2)).collect()


def test_an_inference_after_the_end_says_so(sc):
    with tfos_fast.run(sc, mains.square, {}, 1, **SMALL) as cluster:
        results = cluster.infer(sc.parallelize(range(100), 2))
    with pytest.raises(Exception, match="was the cluster shut down"):
        results.collect()


def test_what_is_no_rdd_is_refused(sc):
    with tfos_fast.reserve(sc, 1, **SMALL) as cluster:
        with pytest.raises(TypeError, match=r"feed\(\) takes an RDD or a DataFrame of Spark, not a list"):
            cluster.feed([1, 2, 3])
        with pytest.raises(TypeError, match=r"infer\(\) takes an RDD or a DataFrame of Spark, not a numpy ndarray"):
            cluster.infer(np.arange(3))
        with pytest.raises(ClusterError, match=r"call cluster.start\(main, args\) before feed"):
            cluster.feed(sc.parallelize([1]))
        cluster.start(mains.collect, {"out": "."})
        for refused in ({"feed_timeout": "10"}, {"feed_timeout": 0}, {"epochs": 1.5}, {"epochs": np.int64(0)}, {"position": 3}):
            with pytest.raises(ValueError, match=next(iter(refused))):
                cluster.feed(sc.parallelize([1]), **refused)
        with pytest.raises(ValueError, match=r"keep_limit=1.5 is no size"):
            cluster.feed(sc.parallelize([1]), epochs=2, keep="memory", keep_limit=1.5)
        with pytest.raises(ValueError, match="together is a number of seconds, 0 or more, not 'x'"):
            cluster.offer(sc.parallelize([1]), "v", together="x")
        with pytest.raises(ValueError, match="feed_timeout is a number of seconds, more than 0, not None"):
            cluster.infer(sc.parallelize([1]), feed_timeout=None)
        with pytest.raises(ValueError, match="timeout is a number of seconds"):
            cluster.shutdown(timeout="1")
        cluster.abort()


def test_exit_status_of_main(sc, out):
    with pytest.raises(NodeKilled, match="ended with status 3 without a word"):
        tfos_fast.run(sc, lambda args, ctx: os._exit(3), None, 1, **SMALL).shutdown()
    with pytest.raises(NodeFailed, match="SystemExit: 4"):
        tfos_fast.run(sc, lambda args, ctx: exit(4), None, 1, **SMALL).shutdown()
    tfos_fast.run(sc, lambda args, ctx: exit(0), None, 1, **SMALL).shutdown()


def test_shutdown_kills_what_does_not_end(sc, out):
    cluster = tfos_fast.run(sc, mains.deaf, {"out": out}, 1, **SMALL)
    cluster.feed(sc.parallelize([1], 1))
    pid = wait_for(lambda: noted(out, "pid"), "the trainer")[0]
    with pytest.raises(tfos_fast.errors.ClusterTimeout, match="worker:0 still run"):
        cluster.shutdown(timeout=0.5)
    assert not os.path.exists(f"/proc/{pid}")


def test_two_clusters_at_once(sc, out, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with (
        tfos_fast.run(sc, mains.collect, {"out": out}, 1, **SMALL) as a,
        tfos_fast.run(sc, mains.collect, {"out": str(other)}, 1, **SMALL) as b,
    ):
        a.feed(sc.parallelize(range(5), 1))
        b.feed(sc.parallelize(range(5, 9), 1))
    assert noted(out) == {0: [0, 1, 2, 3, 4]}
    assert noted(str(other)) == {0: [5, 6, 7, 8]}


def test_too_few_slots(sc):
    begin = time.monotonic()
    with pytest.raises(NotEnoughSlots, match=r"5 nodes need 5 task slots.*local\[number of slots\]"):
        tfos_fast.reserve(sc, 5)
    assert not sc.statusTracker().getActiveJobsIds(), f"no job was needed to know ({time.monotonic() - begin:.1f} s)"
