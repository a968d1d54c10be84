"""Named feeds: validation beside training on two executors of one core, where a waiting task of one would starve the other."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

import tfos_fast
from tests.spark.mains import note, noted
from tfos_fast.errors import NodeKilled, SchemaMismatch, StallTimeout

MASTER = "local-cluster[2,1,1024]"
SPEC = ("float32", "float32")


def fit(args, ctx):
    """Keras, one call of ``fit`` for each epoch; leave the numbers of the rows that training and validation saw."""
    import tensorflow as tf

    seen = {"": [], "validation": []}

    def noting(name):
        ds = ctx.get_data_feed(name=name).dataset(16, spec=("float32", "int64"))

        def look(x, i):
            seen[name][-1].extend(i.numpy().tolist())
            return tf.cast(i, tf.float32)

        def keep(*row):
            x, i = (row[0]["c0"], row[0]["c1"]) if isinstance(row[0], dict) else row
            y = tf.py_function(look, (x, i), tf.float32)
            y.set_shape((None,))
            return tf.ensure_shape(x, (None, 4)), y

        return ds.map(keep)

    model = tf.keras.Sequential([tf.keras.layers.Input((4,)), tf.keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    train, validation = noting(""), noting("validation")
    losses = []
    for epoch in range(3):
        for rows in seen.values():
            rows.append([])
        history = model.fit(train, validation_data=validation, initial_epoch=epoch, epochs=epoch + 1, verbose=0)
        losses += history.history["val_loss"]
    note(args["out"], ctx, {"train": seen[""], "validation": seen["validation"], "losses": losses})


def numbered(count):
    return lambda p: ((np.full(4, i / 1e5, np.float32), p * count + i) for i in range(count))


@pytest.mark.tensorflow
@pytest.mark.parametrize("frames", [False, pytest.param(True, marks=pytest.mark.long)], ids=["rdd", "dataframe"])
def test_fit_with_validation_data(sc, out, frames):
    train, valid = sc.parallelize(range(4), 4).flatMap(numbered(600)), sc.parallelize(range(3), 3).flatMap(numbered(200))
    if frames:
        from pyspark.sql import SparkSession

        spark = SparkSession(sc)
        schema = "c0 array<float>, c1 long"
        train, valid = (spark.createDataFrame(rdd.map(lambda row: (row[0].tolist(), row[1])), schema) for rdd in (train, valid))
    # A slot holds 100 rows or so, and a node 8: two partitions of training do not fit, nor all of validation.
    with tfos_fast.run(sc, fit, {"out": out}, 2, memory="32k", slot_bytes="4k") as cluster:
        cluster.offer(valid, name="validation", together=60.0)
        report = cluster.feed(train, epochs=3)
    assert report.rows == 3 * 2400
    nodes = noted(out).values()
    for name, parts, count in (("train", 4, 600), ("validation", 3, 200)):
        for epoch in range(3):
            shares = [node[name][epoch] for node in nodes]
            assert sorted(number for share in shares for number in share) == list(range(parts * count))
            for share in shares:
                for p in range(parts):
                    mine = [number for number in share if number // count == p]
                    assert mine == sorted(mine)
    assert all(len(node["losses"]) == 3 for node in nodes)


def read_both(args, ctx):
    """A program whose node 1 never reads the validation feed."""
    rows, validation = 0, []
    if ctx.task_index == 0:
        dataset = ctx.get_data_feed(name="validation").dataset(32, spec=(("float32", (4,)), ("int64", ())))
        validation = [int(i) for _, numbers in dataset for i in numbers.numpy()]
    feed = ctx.get_data_feed()
    while not feed.should_stop():
        rows += len(feed.next_batch(50))
    unoffered = sum(len(c["c0"]) for c in ctx.get_data_feed(name="nobody").batches(10)) if ctx.task_index == 0 else 0
    note(args["out"], ctx, {"rows": rows, "validation": validation, "unoffered": unoffered})


def test_one_node_validates_and_shutdown_ends_what_nobody_offers(sc, out):
    with tfos_fast.run(sc, read_both, {"out": out}, 2, memory="32k", slot_bytes="4k", feeds={"validation": "16k"}) as cluster:
        cluster.offer(sc.parallelize(range(3), 3).flatMap(numbered(400)), name="validation", together=1.0)
        assert cluster.feed(sc.parallelize(range(4), 4).flatMap(numbered(500))).rows == 2000
        report = cluster.shutdown()
    nodes = noted(out)
    assert sorted(nodes[0]["validation"]) == list(range(1200))
    assert nodes[1]["validation"] == []
    assert nodes[0]["rows"] + nodes[1]["rows"] == 2000
    assert nodes[0]["unoffered"] == 0
    assert [(node.rows, node.rows_offered) for node in report.nodes.values()] == [(nodes[0]["rows"], 1200), (nodes[1]["rows"], 0)]
    assert f"worker:0: exit status 0, {nodes[0]['rows']} rows and 1200 of named feeds, " in str(report)


def misspell_a_column(args, ctx):
    for _ in ctx.get_data_feed(name="validation").batches(10, spec={"lable": "int32"}):
        pass


def test_rows_of_a_named_feed_that_cannot_be_fed_end_in_one_sentence(sc):
    frame = SparkSession(sc).range(100).selectExpr("id", "id % 2 label")
    for data in (frame, frame.rdd):
        text = "partition offer/validation/./., row 0: the spec names 'lable'; .* id, label; did you mean 'label'"
        with pytest.raises(SchemaMismatch, match=text) as caught, tfos_fast.run(sc, misspell_a_column, {}, 1) as cluster:
            cluster.offer(data, name="validation")
            cluster.feed(sc.parallelize(range(10), 1), feed_timeout=60)
        assert caught.value.spark_error is None  # the task told the driver and did not fail


def read_the_wrong_one(args, ctx):
    """Train for a while, then ask for a name that nobody has offered, when all nodes have come so far."""
    feed = ctx.get_data_feed()
    feed.next_batch(10)
    Path(args["out"], str(ctx.task_index)).touch()
    while len(list(Path(args["out"]).iterdir())) < 2:
        time.sleep(0.01)
    ctx.get_data_feed(name="validatoin").next_batch(1)


def test_a_feed_that_nobody_offers_is_named(sc, out, caplog, monkeypatch):
    monkeypatch.setattr("tfos_fast.cluster.driver.named_feeds.UNOFFERED", 1.0)
    words = "worker:0, worker:1 wait for the feed 'validatoin', which is not offered (offered: 'validation')"
    with (
        pytest.raises(StallTimeout, match=re.escape(f"{words}; did you mean 'validation'? Otherwise cluster.offer(")),
        tfos_fast.run(sc, read_the_wrong_one, {"out": out}, 2, memory="64k", slot_bytes="4k") as cluster,
    ):
        cluster.offer(sc.parallelize(range(10), 1), name="validation")
        cluster.feed(sc.parallelize(range(100_000), 4), feed_timeout=4)
    assert [record.getMessage().partition(";")[0] for record in caplog.records if "validatoin" in record.getMessage()] == [words]


def die(args, ctx):
    for _ in ctx.get_data_feed(name="validation").batches(10):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_trainer_that_dies_in_a_named_feed(sc, out):
    valid, train = (sc.parallelize(range(2), 2).flatMap(numbered(count)) for count in (5000, 100))
    cluster = tfos_fast.run(sc, die, {"out": out}, 2, memory="64k", slot_bytes="4k")
    with pytest.raises(NodeKilled, match="worker:"), cluster:
        cluster.offer(valid, name="validation")
        cluster.feed(train)
