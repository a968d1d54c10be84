"""A Spark Connect server with two executors of two cores: a client without a SparkContext, and no RDD."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tfos_fast
from tests.spark import mains, test_differential
from tests.spark.alltypes import FEW, frame_of
from tests.spark.mains import noted
from tests.spark.test_frame_types import check_names
from tests.support.leaks import our_processes
from tfos_fast.errors import (
    CoordinatorUnreachable,
    MainNotPicklable,
    NeedsSparkContext,
    NodeFailed,
    NodeKilled,
    NodeLost,
    NotEnoughSlots,
)

MASTER = "local-cluster[2,2,1024]"
SETTINGS = {"spark.task.maxFailures": "4"}
SMALL = {"memory": "8m"}


def id_of(row):
    """A row of several columns is a Row, which JSON makes a list."""
    return row[0] if isinstance(row, list) else row["id"] if isinstance(row, dict) else row


def ids(nodes):
    """The ids that the nodes got, sorted."""
    return sorted(id_of(row) for rows in nodes.values() for row in rows)


def two_columns(session, rows, partitions):
    return session.range(0, rows, 1, partitions).selectExpr("id", "cast(id * 0.5 as double) as x")


def wait_for(look, what, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.01)
    return look()


def test_a_frame_is_fed_once_and_in_order(connect, out):
    frame = two_columns(connect, 3000, 5)
    with tfos_fast.reserve(connect, 2, **SMALL) as cluster:
        assert cluster.sc is connect
        assert len({node.executor.pid for node in cluster.nodes}) == 2  # one on each executor, however many cores that has
        cluster.start(mains.collect, {"out": out})
        report = cluster.feed(frame, epochs=2)
        assert (report.rows, report.partitions, report.epochs) == (6000, 10, 2)
        assert cluster.feed(frame.where("id < 0")).rows == 0
        ended = cluster.shutdown()
        assert cluster.shutdown() is ended
    assert [node.status for node in ended.nodes.values()] == [0, 0]
    assert ids(noted(out)) == sorted([*range(3000)] * 2)
    for rows in noted(out).values():
        for partition in range(5):
            part = [i for i in map(id_of, rows) if i // 600 == partition]
            assert part in (sorted(part), [*sorted(set(part)), *sorted(set(part))])  # in one epoch, or in both


def test_files_are_fed_in_an_order(connect, out, tmp_path):
    for i in range(3):
        numbers = np.arange(1000 * i, 1000 * (i + 1))
        table = pa.table({"id": numbers, "x": numbers * 0.5, "unused": numbers})
        pq.write_table(table, tmp_path / f"{i}.parquet", row_group_size=250)
    files = tfos_fast.parquet(tmp_path / "*.parquet", columns=["id", "x"], splits=6)
    with tfos_fast.run(connect, mains.collect, {"out": out}, 2, **SMALL) as cluster:
        assert (cluster.feed(files).rows, cluster.feed(files, epochs=2, shuffle=True, seed=7).partitions) == (3000, 12)
    nodes = noted(out)
    assert ids(nodes) == sorted([*range(3000)] * 3)
    assert all(len(row) == 2 for rows in nodes.values() for row in rows)


def give_back(args, ctx):
    """Give back the columns of each row but the first."""
    feed = ctx.get_data_feed(train_mode=False)
    while not feed.should_stop():
        if rows := feed.next_batch(64):
            feed.batch_results([tuple(row[1:]) for row in rows])


def test_results_of_times_and_lists_are_as_they_were(connect):
    frame = connect.range(20, numPartitions=2).selectExpr(
        "id", "timestamp_micros(id * 86400000123456) as ts", "cast(timestamp_micros(id) as timestamp_ntz) as n",
        "transform(sequence(1, cast(id % 2 + 1 as int)), i -> concat('bird', i)) as tags", "map('k', id) as m",
    )  # fmt: skip
    schema = "ts timestamp, n timestamp_ntz, tags array<string>, m map<string,bigint>"
    with tfos_fast.run(connect, give_back, {}, 2, memory="4m") as cluster:
        results = cluster.infer(frame, schema=schema).collect()
    assert list(map(tuple, results)) == [tuple(row[1:]) for row in frame.collect()]


def test_values_of_some_types_are_those_of_collect(connect, tmp_path):
    # Its collect() fails where a moment is outside of the years 1 to 9999 in UTC.
    frame, labels = frame_of(connect, [name for name in FEW if name not in ("timestamp", "array<timestamp>")])
    made = frame, labels, frame.collect()
    noted_rows = tmp_path / "noted"
    with tfos_fast.run(connect, test_differential.serve, {"out": str(noted_rows)}, 1, **SMALL) as cluster:
        for name in ("arrow_rows", "parquet_rows", "replayed_rows", "named_results", "results_by_position", "kept_columns"):
            path = getattr(test_differential, name)
            test_differential.compare(path, (cluster, noted_rows), made, tmp_path / name)


def test_inference_of_a_frame(connect):
    frame = connect.range(0, 2000, 1, 4).selectExpr("id", "cast(id as float) as x", "concat('n', id) as name")
    with tfos_fast.run(connect, mains.predict, {"how": "dict"}, 2, memory="4m") as cluster:
        results = cluster.infer(frame, schema="z array<double>, y float", keep=["name"], columns=["x"])
        assert results.columns == ["name", "z", "y"]
        assert list(map(tuple, results.collect())) == [(f"n{i}", [2.0 * i] * 3, 2.0 * i) for i in range(2000)]
        learned = cluster.infer(frame, keep=["id"], columns=["x"])
        assert learned.dtypes == [("id", "bigint"), ("y", "double"), ("z", "array<double>")]
        assert learned.where("id = 7").first()["y"] == 14.0


def test_names_that_spark_does_not_resolve(connect, out):
    check_names(lambda main, args: tfos_fast.run(connect, main, args, 1, **SMALL), connect, out)


def test_an_exception_in_main_ends_the_feed(connect, out):
    with (
        pytest.raises(NodeFailed, match=r"seen .* rows, that is too many") as caught,
        tfos_fast.run(connect, mains.fail_at, {"node": 1, "rows": 40}, 2, **SMALL) as cluster,
    ):
        cluster.feed(two_columns(connect, 4_000_000, 8))
    assert caught.value.node == "worker:1"
    assert "in fail_at" in caught.value.remote_traceback


def test_a_killed_trainer_is_named_while_the_feed_waits(connect, out, record_property):
    killed = []
    with tfos_fast.run(connect, mains.deaf, {"out": out}, 2, **SMALL) as cluster:

        def kill():
            pid = wait_for(lambda: noted(out, "pid").get(1), "the trainer")
            killed.append(time.monotonic())
            os.kill(pid, signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(NodeKilled, match=r"killed by signal 9 \(SIGKILL\)") as caught:
            cluster.feed(two_columns(connect, 4_000_000, 8))
        record_property("seconds from SIGKILL to the exception", time.monotonic() - killed[0])
        thread.join()
    assert (caught.value.signal, caught.value.node) == (9, "worker:1")
    with tfos_fast.run(connect, mains.collect, {"out": out}, 2, **SMALL) as cluster:  # the application lives on
        assert cluster.feed(connect.range(0, 10, 1, 2)).rows == 10


def test_a_task_that_is_tried_again_leaves_out_what_was_delivered(connect, out, tmp_path):
    marker = str(tmp_path / "killed")

    def die_once(batches):
        seen = 0
        for batch in batches:
            for start in range(0, batch.num_rows, 1000):
                yield batch.slice(start, 1000)
            seen += batch.num_rows
            if seen >= 40_000 and batch.column(0)[0].as_py() >= 50_000 and not os.path.exists(marker):
                open(marker, "w").close()
                time.sleep(0.5)  # let what was packed be published
                os.kill(os.getpid(), signal.SIGKILL)

    frame = connect.range(0, 100_000, 1, 2).mapInArrow(die_once, "id long")
    with tfos_fast.run(connect, mains.collect, {"out": out}, 2, memory="1m", slot_bytes="64k") as cluster:
        assert cluster.feed(frame).rows == 100_000
    assert Path(marker).exists()
    assert ids(noted(out)) == [*range(100_000)]


def test_executors_that_cannot_reach_the_client_meet_it_at_a_relay(connect, out):
    nowhere = "192.0.2.1"  # for documentation (RFC 5737): nobody has it
    with pytest.raises(CoordinatorUnreachable, match="cannot reach the coordinator"):
        tfos_fast.reserve(connect, 2, server_host=nowhere, relay=False, **SMALL)
    with tfos_fast.run(connect, mains.collect, {"out": out}, 2, server_host=nowhere, **SMALL) as cluster:
        assert nowhere not in cluster._coordinator.keys.endpoint
        assert relays()
        assert cluster.feed(two_columns(connect, 3000, 4), epochs=2).rows == 6000
    assert ids(noted(out)) == sorted([*range(3000)] * 2)


@pytest.mark.long
def test_a_failure_comes_through_a_relay(connect, out):
    with (
        pytest.raises(NodeFailed, match=r"seen .* rows, that is too many"),
        tfos_fast.run(connect, mains.fail_at, {"node": 1, "rows": 40}, 2, relay=True, **SMALL) as cluster,
    ):
        cluster.feed(two_columns(connect, 4_000_000, 8))


def relays():
    return [pid for pid, command in our_processes().items() if "tfos_fast.cluster.coordinator.relay" in command]


def test_a_relay_that_dies_ends_the_cluster(connect, out):
    with (
        pytest.raises(NodeLost, match=r"connection to the relay on .* is gone"),
        tfos_fast.run(connect, mains.slow, {"out": out}, 2, relay=True, **SMALL) as cluster,
    ):
        wait_for(lambda: len(noted(out, "pid")) == 2, "both trainers")
        (relay,) = relays()
        os.kill(relay, signal.SIGKILL)
        cluster.feed(two_columns(connect, 4_000_000, 8))


@pytest.mark.long
def test_nodes_in_step_and_a_second_feed(connect, out):
    # Two partitions of very different sizes: the driver must learn how many there are.
    uneven = connect.range(0, 1000, 1, 2).where("id < 540")
    with tfos_fast.run(connect, mains.in_step, {"out": out}, 2, **SMALL) as cluster:
        cluster.offer(connect.range(0, 100, 1, 4), "validation", epochs=1)
        report = cluster.feed(uneven)
    nodes = noted(out)
    assert [node["steps"] for node in nodes.values()] == [4, 4]
    assert (report.rows, sum(report.rows_unused.values())) == (80, 460)
    assert sorted(i for node in nodes.values() for i in node["looked"]) == [*range(100)]


def test_what_is_not_there_is_told(connect, out):
    class Rdd:
        def mapPartitionsWithIndex(self, *_):
            raise AssertionError

    with pytest.raises(NotEnoughSlots, match=r"5 nodes need 5 task slots.* 4\. .*local-cluster\[executors"):
        tfos_fast.reserve(connect, 5, **SMALL)
    with tfos_fast.reserve(connect, 2, **SMALL) as cluster:
        with pytest.raises(MainNotPicklable, match="cannot be sent to the executors"):
            cluster.start(mains.collect, {"lock": threading.Lock()})
        cluster.start(mains.collect, {"out": out})
        with pytest.raises(NeedsSparkContext, match=r"reserved through Spark Connect, which has no RDDs"):
            cluster.feed(Rdd())
        with pytest.raises(NeedsSparkContext, match="no RDDs"):
            cluster.infer(Rdd())
        with pytest.raises(NeedsSparkContext, match="no RDDs"):
            cluster.offer(Rdd(), "validation")
        with pytest.raises(NeedsSparkContext, match=r"feed\(shuffle=True\) of a DataFrame"):
            cluster.feed(connect.range(10), shuffle=True)
