"""Train a small network on handwritten digits: TensorFlow nodes on the Spark cluster, in step, fed from an RDD.

    python train.py --input demo-output/csv/train --model demo-output/model.keras

Every node trains on whatever rows Spark brings it, so the nodes neither get equally many rows nor get them at the same
time. Before each step they therefore agree, in band, how many rows they hold together and how many of them have seen
the end of the data. A node without rows takes part with none: no row is dropped, and nobody waits in a step for a peer
that has nothing to give.
"""

from __future__ import annotations

import argparse

import numpy as np
from pyspark.sql import SparkSession

import tfos_fast


def parse(line: str) -> tuple[np.ndarray, int]:
    """A line of CSV as a row to feed: the pixels, and the label that stands before them."""
    values = np.array(line.split(","), dtype=np.uint8)
    return values[1:], int(values[0])


def train(args: argparse.Namespace, ctx) -> None:
    """What runs on each node, in a process of its own."""
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # finds its peers through TF_CONFIG, which is set here
    with strategy.scope():  # the variables start equal on all nodes, and stay so
        model = tf.keras.Sequential(
            [
                tf.keras.layers.Input((args.pixels,), dtype="uint8"),
                tf.keras.layers.Rescaling(1 / 255),
                tf.keras.layers.Dense(256, activation="relu"),
                tf.keras.layers.Dense(10),
            ]
        )
        optimizer = tf.keras.optimizers.Adam(args.learning_rate)
        optimizer.build(model.trainable_variables)

    @tf.function
    def agree(rows, ended):
        """The sum over all nodes of (rows held now, end of data seen)."""
        return strategy.reduce("SUM", strategy.run(lambda: tf.stack([rows, ended])), axis=None)

    @tf.function(reduce_retracing=True)
    def step(images, labels, rows):
        """One step of all nodes together; ``rows`` is its number of rows over all of them: each row weighs the same."""

        def on_this_node(images, labels):
            with tf.GradientTape() as tape:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(images, training=True))
                loss = tf.reduce_sum(losses) / tf.cast(rows, tf.float32)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)  # sums them over the nodes first

        strategy.run(on_this_node, args=(images, labels))

    feed = ctx.get_data_feed()
    nothing = tf.zeros((0, args.pixels), tf.uint8), tf.zeros((0,), tf.int64)
    while True:
        # Never blocks for long: a peer that has rows is waiting for this node's word. None: nothing here now.
        batch = feed.poll(args.batch_size, timeout=0.02)
        ended = batch is None and feed.should_stop()
        images, labels = nothing if batch is None else batch
        rows, ends = agree(tf.constant(len(labels)), tf.constant(int(ended))).numpy()
        if ends == ctx.num_workers:
            break
        if rows:
            step(images, labels, tf.constant(rows))

    if ctx.task_index == 0:
        model.save(args.model)
    agree(tf.constant(0), tf.constant(1))  # leave together: the first node serves the others' coordination until the end


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="CSV as prepare.py writes it")
    parser.add_argument("--model", required=True, help="file to save the model in (.keras), on a disk that all nodes share")
    parser.add_argument("--nodes", type=int, default=2, help="TensorFlow nodes (default: 2)")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64, help="rows per node and step (default: 64)")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    args = parser.parse_args(argv)

    spark = SparkSession.builder.appName("mnist-train").getOrCreate()
    rows = spark.sparkContext.textFile(args.input).map(parse).cache()
    args.pixels = len(rows.first()[0])
    with tfos_fast.run(spark.sparkContext, train, args, num_executors=args.nodes) as cluster:
        report = cluster.feed(rows, epochs=args.epochs)
    print(
        f"fed {report.rows} rows in {args.epochs} epochs to {args.nodes} nodes: {report.rows_per_second:.0f} rows per second "
        f"over {report.seconds:.1f} s, TensorFlow's start included"
    )
    print(f"saved the model in {args.model}")
    spark.stop()


if __name__ == "__main__":
    main()
