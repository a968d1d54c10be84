"""TensorFlow at the end of the feed, on two executors: epochs of a dataset, flat memory, rows that change in mid-partition."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import tfos_fast
from tests.spark.mains import note, noted
from tfos_fast.errors import SchemaMismatch

MASTER = "local-cluster[2,1,1024]"
pytestmark = pytest.mark.tensorflow


def private_mb() -> float:
    """Private resident memory of this process in MB; the segment's shared pages are not in it."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def fit(args, ctx):
    """Keras on the feed's dataset: one epoch of the feed per epoch of ``fit``."""
    import tensorflow as tf

    seen = []

    class Steps(tf.keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(0)

        def on_train_batch_end(self, batch, logs=None):
            seen[-1] += 1

    model = tf.keras.Sequential([tf.keras.layers.Input((4,)), tf.keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    feed = ctx.get_data_feed()
    model.fit(feed.dataset(64, spec=("float32", "float32")), epochs=args["epochs"], verbose=0, callbacks=[Steps()])
    note(args["out"], ctx, {"steps": seen, "summary": feed.reader.summary})


def test_epochs_of_feed_and_fit_belong_together(sc, out):
    rows = sc.parallelize(range(1000), 2).map(lambda i: (np.full(4, i / 1000), float(i)))
    with tfos_fast.run(sc, fit, {"out": out, "epochs": 3}, 2, memory="16m") as cluster:
        report = cluster.feed(rows, epochs=3)
    assert report.rows == 3000
    nodes = noted(out)
    for node, name in enumerate(("worker:0", "worker:1")):
        per_epoch = -(-report.rows_of_node[name] // 3 // 64)
        assert sum(nodes[node]["steps"]) == pytest.approx(3 * per_epoch, abs=3)
        assert len(nodes[node]["steps"]) == 3
        assert all(nodes[node]["steps"])  # no epoch ran empty, none took what belongs to the next
        assert nodes[node]["summary"]["aliased"] > 0


def stream(args, ctx):
    """Check every value, and look at the memory after a tenth of the rows and at the end."""
    feed = ctx.get_data_feed()
    at = {}
    rows, early = 0, 0.0
    for which, number, values in feed.tensors(64):
        for p, i, value in zip(which.numpy(), number.numpy(), values.numpy()[:, 0], strict=True):
            assert i == at.get(int(p), 0) == value, (p, i, value)
            at[int(p)] = int(i) + 1
        rows += len(number)
        if not early and rows > args["rows"] / 10:
            early = private_mb()
    note(args["out"], ctx, {"at": at, "growth": private_mb() - early, "segment": feed.reader.segment.size})


def test_partitions_ten_times_the_segment_with_flat_memory(sc, out):
    count, width = 10_000, 1100  # 44 MB a partition; a segment has 4 MB

    def partition(p):
        early = 0.0
        for i in range(count):
            yield p, i, np.full(width, i, np.float32)
            if i == count // 10:
                early = private_mb()
        Path(out, f"feeder-{p}").write_text(str(private_mb() - early))

    with tfos_fast.run(sc, stream, {"out": out, "rows": count}, 2, memory="4m") as cluster:
        assert cluster.feed(sc.parallelize(range(2), 2).flatMap(partition)).rows == 2 * count
    nodes = noted(out)
    assert {p: n for node in nodes.values() for p, n in node["at"].items()} == {"0": count, "1": count}
    assert [node["segment"] for node in nodes.values()] == [4 * 2**20 + 4096] * len(nodes)
    growth = [node["growth"] for node in nodes.values()] + [float(Path(out, f"feeder-{p}").read_text()) for p in range(2)]
    assert max(growth) < 10, growth  # MB, of 44 that passed


def read_tensors(args, ctx):
    for _ in ctx.get_data_feed().tensors(64):
        Path(args["out"], "first batch").touch()


BAD = [
    ((1.0, 2.0, 3.0), r"expected float64\[2\], found .*\(1.0, 2.0, 3.0\)"),
    pytest.param("text", r"expected float64\[2\], found .*'text'", marks=pytest.mark.long),
    pytest.param([1.0, None], r"None at index \[1\] inside its list", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("bad", "found"), BAD)
def test_rows_that_change_in_mid_partition_are_named(sc, out, bad, found):
    def partition(p):
        for i in range(5000):
            yield ([1.0, 2.0], i)
        while not Path(out, "first batch").exists():  # before that, lists of another length would be a ragged column
            time.sleep(0.01)
        yield (bad, 5000)

    rows = sc.parallelize(range(1), 1).flatMap(partition)
    with (
        tfos_fast.run(sc, read_tensors, {"out": out}, 1, memory="1m", slot_bytes="16k") as cluster,
        pytest.raises(SchemaMismatch, match=rf"partition .*, row 5000: column 'c0': {found}") as caught,
    ):
        cluster.feed(rows)
    error = caught.value
    assert error.__cause__ is None  # the driver prints one short traceback
    assert error.__context__ is None
    assert len(str(error)) < 500
    assert error.spark_error is None  # the task told the driver and did not fail: Spark logs nothing
