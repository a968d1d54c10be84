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


def plain(args, ctx):
    """An epoch of a dataset that TensorFlow distributes by itself."""
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    dataset = ctx.get_data_feed().dataset(64, (("float32", (250,)), ("float32", ())))
    batches = []
    for _, number in strategy.experimental_distribute_dataset(dataset):
        batches.append([int(i) for i in strategy.experimental_local_results(number)[0].numpy()])
    note(args["out"], ctx, batches)
    strategy.reduce("SUM", strategy.run(lambda: tf.zeros(1)), axis=None)  # leave together


def uneven(args, ctx):
    """Epochs in custom loops, and one in ``fit``; weights say which rows count."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf

    from tfos_fast.distributed import distribute

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    rows = distribute(strategy, ctx.get_data_feed(), 64, (("float32", (250,)), ("float32", ())), uneven=args["uneven"])

    @tf.function(reduce_retracing=True)
    def step(_, number, weight=None):
        count = strategy.run(lambda n, w: tf.size(n) if w is None else tf.cast(tf.reduce_sum(w), tf.int32), (number, weight))
        return strategy.reduce("SUM", count, axis=None)

    def loop():
        steps, total, mine = 0, 0, []
        for batch in rows:
            steps += 1
            total += int(step(*batch))
            _, number, *weight = (strategy.experimental_local_results(part)[0].numpy() for part in batch)
            mine += [int(i) for i in (number[weight[0] > 0] if weight else number)]
        return {"steps": steps, "rows": total, "mine": mine}

    with strategy.scope():
        model = tf.keras.Sequential([tf.keras.layers.Input((250,)), tf.keras.layers.Dense(1)])
        model.compile(tf.keras.optimizers.SGD(1e-9), "mse", weighted_metrics=[tf.keras.metrics.MeanSquaredError()])
    steps = []
    count = tf.keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(float(logs["loss"])))
    seen = {"loop": loop()}
    model.fit(rows, initial_epoch=1, epochs=2, steps_per_epoch=2**31, verbose=0, callbacks=[count])
    seen["fit"] = {"steps": len(steps), "finite": bool(tf.reduce_all(tf.math.is_finite(model.trainable_variables[0])))}
    seen["one partition"] = loop()
    note(args["out"], ctx, seen)
    strategy.reduce("SUM", strategy.run(lambda: tf.zeros(1)), axis=None)  # leave together


def agree_on_steps(sc, out, how, nodes, sizes):
    """Two epochs of these partitions, and one with the first of them alone, which is 3000 rows."""

    def partition(p):
        import numpy as np

        for i in range(sum(sizes[:p]), sum(sizes[: p + 1])):
            yield np.full(250, i, np.float32), float(i)

    total = sum(sizes)
    with tfos_fast.run(sc, uneven, {"out": out, "uneven": how}, nodes, memory="512k", slot_bytes="64k") as cluster:
        first = cluster.feed(sc.parallelize(range(len(sizes)), len(sizes)).flatMap(partition), epochs=2)
        second = cluster.feed(sc.parallelize(range(1), 1).flatMap(partition))
    seen = list(noted(out).values())
    assert len(seen) == nodes
    for name, rows in (("loop", total), ("one partition", 3000)):
        assert len({it[name]["steps"] for it in seen}) == 1
        mine = [row for it in seen for row in it[name]["mine"]]
        assert {it[name]["rows"] for it in seen} == {len(mine)} == {len(set(mine))}
        if how == "pad":
            assert sorted(mine) == list(range(rows))
    assert all(it["fit"] == seen[0]["fit"] for it in seen)
    assert seen[0]["fit"]["finite"]
    assert first.rows + sum(first.rows_unused.values()) == 2 * total
    assert second.rows + sum(second.rows_unused.values()) == 3000
    if how == "pad":
        assert (first.rows, second.rows) == (2 * total, 3000)
        assert seen[0]["one partition"]["steps"] == 47
        assert seen[0]["fit"]["steps"] >= 47
    else:
        assert seen[0]["one partition"]["steps"] == 0
        assert second.rows_unused in [{f"worker:{i}": 3000} for i in range(nodes)]


def test_a_plain_dataset_is_not_sharded_and_its_batches_are_split(sc, out):
    def partition(p):
        import numpy as np

        for i in range(p * 640, (p + 1) * 640):
            yield np.full(250, i, np.float32), float(i)

    with tfos_fast.run(sc, plain, {"out": out}, 2, memory="4m", slot_bytes="256k") as cluster:
        assert cluster.feed(sc.parallelize(range(2), 2).flatMap(partition)).rows == 1280
    nodes = list(noted(out).values())
    assert sorted(row for batches in nodes for batch in batches for row in batch) == list(range(1280))
    assert {len(batch) for batches in nodes for batch in batches} - {0} == {32}


@pytest.mark.parametrize("how", [pytest.param("stop", marks=pytest.mark.long), "pad"])
def test_nodes_agree_on_their_steps(sc, out, how):
    agree_on_steps(sc, out, how, 2, [3000, 70, 0, 1])


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
