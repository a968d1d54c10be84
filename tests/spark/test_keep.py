"""``feed(keep=...)`` on two executors: Spark hands the rows out once, the nodes replay them; deaths and ends in mid-replay."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import tfos_fast
from tests.spark import mains
from tests.spark.mains import note, noted
from tfos_fast.errors import NodeFailed, NodeKilled, StallTimeout

MASTER = "local-cluster[2,1,1024]"
SMALL = {"memory": "8m"}


def counted(sc, sizes):
    """An RDD of (partition, row) pairs, and how often a row of it was made."""
    made = sc.accumulator(0)

    def rows(p):
        for row in range(sizes[p]):
            made.add(1)
            yield p, row

    return sc.parallelize(range(len(sizes)), len(sizes)).flatMap(rows), made


def wait_for(look):
    deadline = time.monotonic() + 60
    while not (found := look()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_three_epochs_of_which_spark_makes_one(sc, out, keep):
    sizes = [1000, 3, 0, 5000, 777]
    rows, made = counted(sc, sizes)
    with tfos_fast.run(sc, mains.collect, {"out": out}, 2, **SMALL) as cluster:
        report = cluster.feed(rows, epochs=3, keep=keep, shuffle=keep == "disk", seed=7)
        assert (report.rows, report.epochs, made.value) == (3 * sum(sizes), 3, sum(sizes))
        assert sum(report.rows_of_node.values()) == report.rows
        assert report.ended_early == {} == report.rows_left
        with pytest.raises(ValueError, match="keep='floppy' is none of"):
            cluster.feed(rows, keep="floppy")
        with pytest.raises(ValueError, match="give keep="):
            cluster.feed(rows, keep_limit="1g")
        assert cluster.feed(rows).rows == sum(sizes)  # one that is not kept
    nodes = noted(out)
    seen = sorted(tuple(row) for node in nodes.values() for row in node)
    assert seen == sorted([(p, row) for p, size in enumerate(sizes) for row in range(size)] * 4)
    for name, node in (("worker:0", nodes[0]), ("worker:1", nodes[1])):
        epoch = report.rows_of_node[name] // 3
        epochs = [node[i * epoch : (i + 1) * epoch] for i in range(3)]
        assert [sorted(rows) for rows in epochs[1:]] == [sorted(epochs[0])] * 2
        if epoch > 1000:  # pieces enough for orders that differ
            assert (epochs[1] != epochs[2]) == (keep == "disk")


def test_a_killed_feeder_leaves_each_row_once_in_what_is_kept(sc, out):
    mark = Path(out, "killed")

    def rows(p):
        for row in range(20_000):
            if p == 0 and row == 15_000 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield p, row

    with tfos_fast.run(sc, mains.collect, {"out": out}, 2, memory="1m", slot_bytes="16k") as cluster:
        report = cluster.feed(sc.parallelize(range(2), 2).flatMap(rows), epochs=2, keep="memory")
    assert mark.exists()
    assert report.rows == 80_000
    seen = sorted(tuple(row) for node in noted(out).values() for row in node)
    assert seen == sorted([(p, row) for p in range(2) for row in range(20_000)] * 2)


def pausing(args, ctx):
    """Read an epoch of ``rows`` rows and some rows of the next; then say so and do as told."""
    feed = ctx.get_data_feed()
    seen = 0
    while seen < args["rows"] + 10:
        seen += len(feed.next_batch(10))
    note(args["out"], ctx, os.getpid(), "pid")
    if args["then"] == "terminate":
        feed.terminate()
    elif args["then"] == "wait":
        time.sleep(3600)


def test_a_trainer_killed_in_its_replay_is_named(sc, out):
    rows = sc.parallelize([(i, float(i)) for i in range(20_000)], 1)

    def kill():
        os.kill(wait_for(lambda: noted(out, "pid"))[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    args = {"out": out, "rows": 20_000, "then": "wait"}
    with pytest.raises(NodeKilled, match="worker:0"), tfos_fast.run(sc, pausing, args, 1, **SMALL) as cluster:
        cluster.feed(rows, epochs=5, keep="memory")
    thread.join()


def test_terminate_and_stall_in_a_replay(sc, out):
    rows = sc.parallelize([(i, float(i)) for i in range(20_000)], 1)
    args = {"out": out, "rows": 20_000, "then": "terminate"}
    with tfos_fast.run(sc, pausing, args, 1, **SMALL) as cluster:
        report = cluster.feed(rows, epochs=5, keep="memory")
        assert report.epochs == 2
        assert report.ended_early == {"worker:0": "called terminate()"}
        assert 20_000 <= report.rows < 40_000 == report.rows + report.rows_left["worker:0"]
    args["then"] = "wait"
    with pytest.raises(StallTimeout, match=r"has \d+ rows of a replay that it does not take.*feed_timeout"):
        with tfos_fast.run(sc, pausing, args, 1, **SMALL) as cluster:
            cluster.feed(rows, epochs=5, keep="memory", feed_timeout=10)  # longer than a trainer takes to start on a busy machine


def test_what_does_not_fit_fails_the_feed_with_its_setting(sc, out):
    with (
        pytest.raises(NodeFailed, match=r"NotEnoughMemory: keep='memory' has kept .* the limit is 65536 .*keep_limit.*keep='disk'"),
        tfos_fast.run(sc, mains.collect, {"out": out}, 1, **SMALL) as cluster,
    ):
        cluster.feed(sc.parallelize(range(100_000), 1), epochs=2, keep="memory", keep_limit="64k")


def fit_epochs(args, ctx):
    """One ``fit`` per epoch."""
    import tensorflow as tf

    model = tf.keras.Sequential([tf.keras.layers.Input((4,)), tf.keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    feed = ctx.get_data_feed()
    dataset = feed.dataset(64, spec=("float32", "float32"))
    rows = [0]

    class Steps(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rows[-1] += 1

    for epoch in range(3):
        model.fit(dataset, initial_epoch=epoch, epochs=epoch + 1, verbose=0, callbacks=[Steps()])
        rows.append(0)
    note(args["out"], ctx, {"steps": rows[:3], "summary": feed.reader.summary})


@pytest.mark.tensorflow
def test_one_fit_per_replayed_epoch(sc, out):
    rows = sc.parallelize(range(1000), 2).map(lambda i: (np.full(4, i / 1000), float(i)))
    with tfos_fast.run(sc, fit_epochs, {"out": out}, 2, memory="16m") as cluster:
        report = cluster.feed(rows, epochs=3, keep="memory")
    assert report.rows == 3000
    for node, name in enumerate(("worker:0", "worker:1")):
        assert noted(out)[node]["steps"] == [-(-report.rows_of_node[name] // 3 // 64)] * 3
