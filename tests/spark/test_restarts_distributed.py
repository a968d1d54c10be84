"""Two nodes under MultiWorkerMirroredStrategy, one of which is killed: both go on from their checkpoints, with every row."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import tfos_fast
from tests.spark.mains import note, noted

MASTER = "local-cluster[2,1,1024]"
EPOCHS = 3
pytestmark = [pytest.mark.tensorflow, pytest.mark.long, pytest.mark.timeout(300)]


def fit(args, ctx):
    """An epoch a ``fit``, a checkpoint after each; worker 1 kills itself in the second one."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf

    from tfos_fast.distributed import distribute

    strategy = tf.distribute.MultiWorkerMirroredStrategy()

    class Count(tf.keras.metrics.Metric):
        """The weights of rows, and the sum of their numbers, over all nodes."""

        def __init__(self):
            super().__init__(name="count")
            self.rows, self.sum = (self.add_weight(name=name, initializer="zeros", dtype=tf.float64) for name in ("rows", "sum"))

        def update_state(self, y, predicted, sample_weight=None):
            weight = tf.cast(sample_weight, tf.float64)
            self.rows.assign_add(tf.reduce_sum(weight))
            self.sum.assign_add(tf.reduce_sum(tf.cast(y, tf.float64) * weight))

        def result(self):
            return {"rows": self.rows, "sum": self.sum}

        def reset_state(self):
            self.rows.assign(0)
            self.sum.assign(0)

    with strategy.scope():
        model = tf.keras.Sequential([tf.keras.layers.Input((250,)), tf.keras.layers.Dense(1)])
        model.compile(tf.keras.optimizers.SGD(1e-9), "mse", weighted_metrics=[Count()])
    done = tf.Variable(0, dtype=tf.int64)
    # Each worker writes, and reads what it wrote, as this strategy wants it.
    checkpoint = tf.train.Checkpoint(model=model, done=done)
    path = str(Path(args["out"]).parent / f"checkpoint-{ctx.task_index}" / "at")
    if ctx.restarts:
        checkpoint.restore(path)
    feed = ctx.get_data_feed()
    rows = distribute(strategy, feed, 64, (("float32", (250,)), ("float32", ())), uneven="pad")

    def die(batch, logs):
        if ctx.task_index == 1 and not ctx.restarts and int(done.numpy()) == 1 and batch == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    first, epochs = int(done.numpy()), []
    for epoch in range(first, args["epochs"]):
        history = model.fit(
            rows, initial_epoch=epoch, epochs=epoch + 1, steps_per_epoch=2**31, verbose=0,
            callbacks=[tf.keras.callbacks.LambdaCallback(on_train_batch_end=die)],
        ).history  # fmt: skip
        epochs.append([history["rows"][0], history["sum"][0]])
        done.assign(epoch + 1)
        checkpoint.write(path)
        feed.commit()
    note(args["out"], ctx, {"first": first, "restarts": ctx.restarts, "epochs": epochs})
    strategy.reduce("SUM", strategy.run(lambda: tf.zeros(1)), axis=None)  # leave together


def test_both_nodes_go_on_from_their_checkpoints(sc, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    sizes = [1500, 70, 900, 600]

    def partition(p):
        import numpy as np

        for i in range(sum(sizes[:p]), sum(sizes[: p + 1])):
            yield np.full(250, i, np.float32), float(i)

    args = {"out": str(out), "epochs": EPOCHS}
    with tfos_fast.run(sc, fit, args, 2, memory="512k", slot_bytes="64k", max_restarts=1, restart="group") as cluster:
        cluster.feed(sc.parallelize(range(4), 4).flatMap(partition), epochs=EPOCHS)
        report = cluster.shutdown()
    assert all("worker:1" in node.restarts[0] for node in report.nodes.values())
    total = sum(sizes)
    for node in noted(str(out)).values():
        assert node == {"first": 1, "restarts": 1, "epochs": [[total, total * (total - 1) / 2]] * (EPOCHS - 1)}
