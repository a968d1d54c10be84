"""Two nodes in step under MultiWorkerMirroredStrategy: every row in one step, as many steps on both, whatever Spark brings each."""

from __future__ import annotations

import os

import pytest

import tfos_fast
from tests.spark.mains import note, noted

MASTER = "local-cluster[2,1,1024]"
pytestmark = pytest.mark.tensorflow


def in_step(args, ctx):
    """An epoch in a custom loop, a shuffled one in another, and one in ``fit`` of tf_keras."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"  # Keras 3 cannot train under this strategy
    import tensorflow as tf

    from tfos_fast.distributed import distribute

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    feed = ctx.get_data_feed()
    spec = (("float32", (250,)), ("float32", ()))
    seen = {}

    @tf.function(reduce_retracing=True)
    def step(number):
        return strategy.reduce("SUM", strategy.run(tf.size, (number,)), axis=None)

    for name, shuffle in (("loop", 0), ("shuffled", 500)):
        steps, rows, mine = 0, 0, []
        for _, number in distribute(strategy, feed, 64, spec, shuffle=shuffle):
            steps += 1
            rows += int(step(number))
            mine += [int(i) for i in strategy.experimental_local_results(number)[0].numpy()]
        seen[name] = {"steps": steps, "rows": rows, "mine": mine}

    class Count(tf.keras.metrics.Metric):
        """Rows, and the sum of their numbers, over all nodes."""

        def __init__(self):
            super().__init__(name="count")
            self.rows, self.sum = (self.add_weight(name=name, initializer="zeros", dtype=tf.float64) for name in ("rows", "sum"))

        def update_state(self, y, predicted, sample_weight=None):
            self.rows.assign_add(tf.cast(tf.size(y), tf.float64))
            self.sum.assign_add(tf.reduce_sum(tf.cast(y, tf.float64)))

        def result(self):
            return {"rows": self.rows, "sum": self.sum}

        def reset_state(self):
            self.rows.assign(0)
            self.sum.assign(0)

    with strategy.scope():
        model = tf.keras.Sequential([tf.keras.layers.Input((250,)), tf.keras.layers.Dense(1)])
        model.compile(tf.keras.optimizers.SGD(1e-9), "mse", metrics=[Count()])
    steps = []
    count = tf.keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(float(logs["loss"])))
    history = model.fit(
        distribute(strategy, feed, 64, spec), initial_epoch=2, epochs=3, steps_per_epoch=2**31, verbose=0, callbacks=[count]
    )
    seen["fit"] = {
        "steps": len(steps),
        "rows": history.history["rows"][0],
        "sum": history.history["sum"][0],
        "finite": bool(tf.reduce_all(tf.math.is_finite(model.trainable_variables[0]))),
    }
    note(args["out"], ctx, seen)
    step(strategy.run(lambda: tf.zeros(1)))  # leave together


def test_every_row_is_in_one_step_and_nodes_stay_in_step(sc, out):
    sizes = [3000, 70, 0, 1]  # the first is more than a segment holds, and no other node has rows while it is read

    def partition(p):
        import numpy as np

        for i in range(sum(sizes[:p]), sum(sizes[: p + 1])):
            yield np.full(250, i, np.float32), float(i)

    rows = sc.parallelize(range(4), 4).flatMap(partition)
    with tfos_fast.run(sc, in_step, {"out": out}, 2, memory="512k", slot_bytes="64k") as cluster:
        assert cluster.feed(rows, epochs=3).rows == 3 * 3071
    nodes = noted(out)
    for name in ("loop", "shuffled"):
        one, other = nodes[0][name], nodes[1][name]
        assert one["rows"] == other["rows"] == 3071
        assert one["steps"] == other["steps"] >= max(len(one["mine"]), len(other["mine"])) / 64
        assert sorted(one["mine"] + other["mine"]) == list(range(3071))
    assert nodes[0]["loop"]["mine"] != nodes[0]["shuffled"]["mine"]
    one, other = nodes[0]["fit"], nodes[1]["fit"]
    assert one == other
    assert (one["rows"], one["sum"], one["finite"]) == (3071, 3070 * 3071 / 2, True)
    assert one["steps"] >= 47
