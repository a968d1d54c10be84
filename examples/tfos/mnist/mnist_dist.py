"""What runs on each node of mnist_spark.py; shipped with ``--py-files``."""

from __future__ import annotations

import datetime
import queue
import threading

import numpy as np
from tensorflowonspark import TFNode, compat


def to_arrays(rows):
    """Rows (pixels, one-hot label) as an array of images and one of labels."""
    images = np.array([pixels for pixels, _ in rows], np.float32) / 255
    return images, np.array([label for _, label in rows]).argmax(axis=1)


def map_fun(args, ctx):
    if args.mode == "train":
        train(args, ctx)
    else:
        infer(args, ctx)


def read_ahead(ctx, batch_size):
    """A queue of batches, filled by a thread; None ends it, or the error that ended the thread.

    The nodes train in step. Were one to wait for rows in ``next_batch``, all would wait with it: and the rest of the rows may
    all lie with one of them. So the loop of training looks into the queue and never waits.
    """
    batches = queue.Queue(4)

    def read():
        try:
            feed = TFNode.DataFeed(ctx.mgr, train_mode=True)
            while not feed.should_stop():
                rows = feed.next_batch(batch_size)
                if rows:
                    batches.put(rows)
            batches.put(None)
        except Exception as error:  # noqa: BLE001 - raised again where the batches are taken
            batches.put(error)

    threading.Thread(target=read, daemon=True).start()
    return batches


def train(args, ctx):
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # by TF_CONFIG, which is set: the cluster has a chief
    with strategy.scope():
        model = tf.keras.Sequential(
            [tf.keras.Input((args.pixels,)), tf.keras.layers.Dense(args.hidden, "relu"), tf.keras.layers.Dense(10)]
        )
        optimizer = tf.keras.optimizers.Adam(args.learning_rate)
        optimizer.build(model.trainable_variables)

    @tf.function
    def agree(rows, ended):
        """Rows that all nodes hold, and how many nodes have come to the end."""
        return strategy.reduce("SUM", strategy.run(lambda: tf.stack([rows, ended])), axis=None)

    @tf.function(reduce_retracing=True)
    def step(images, labels, rows):
        def on_this_node(images, labels):
            with tf.GradientTape() as tape:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(images, training=True))
                loss = tf.reduce_sum(losses) / tf.cast(rows, tf.float32)
            optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            return loss

        return strategy.reduce("SUM", strategy.run(on_this_node, args=(images, labels)), axis=None)

    batches = read_ahead(ctx, args.batch_size)
    nothing = np.zeros((0, args.pixels), np.float32), np.zeros(0, np.int64)
    ended, steps = False, 0
    while True:
        images, labels = nothing
        if not ended:
            try:
                rows = batches.get(timeout=0.02)
            except queue.Empty:
                pass
            else:
                if isinstance(rows, Exception):
                    raise rows
                ended = rows is None
                if rows:
                    images, labels = to_arrays(rows)
        rows, ends = agree(tf.constant(len(labels)), tf.constant(int(ended))).numpy()
        if rows:
            loss = step(images, labels, tf.constant(rows))
            steps += 1
            if steps % 100 == 0:
                print(f"{ctx.job_name}:{ctx.task_index} step {steps}: loss {loss.numpy():.3f}")
        elif ends == ctx.num_workers:
            break
    compat.export_saved_model(model, TFNode.hdfs_path(ctx, args.model), ctx.job_name == "chief")
    agree(tf.constant(0), tf.constant(1))  # leave together: the chief serves the others' coordination until the end


def infer(args, ctx):
    import tensorflow as tf

    model = tf.saved_model.load(TFNode.hdfs_path(ctx, args.model))
    feed = TFNode.DataFeed(ctx.mgr, train_mode=False)
    while not feed.should_stop():
        rows = feed.next_batch(args.batch_size)
        if not rows:
            continue
        images, labels = to_arrays(rows)
        predictions = model.serve(images).numpy().argmax(axis=1)
        now = datetime.datetime.now().isoformat()
        feed.batch_results([f"{now} Label: {y}, Prediction: {p}" for y, p in zip(labels, predictions, strict=True)])
