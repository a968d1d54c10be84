"""Keras on all nodes in step, fed by Spark. See ../README.md for the commands."""

from __future__ import annotations

import argparse

import mnist_model


def main_fun(args, ctx):
    import tensorflow as tf
    from tensorflowonspark import compat

    from tfos_fast.distributed import distribute

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = mnist_model.build(args.pixels, args.learning_rate)
    # Programs used to stop at 90 % of the steps here, lest one node ran out of rows while others waited for it. Now the nodes agree
    # on the end of each epoch, and no row is left out: short batches are filled up with rows of weight 0.
    spec = ("float32", (args.pixels,)), ("int64", ())
    rows = distribute(strategy, ctx.get_data_feed().feed, args.batch_size, spec, uneven="pad")
    for epoch in range(args.epochs):
        model.fit(
            rows, initial_epoch=epoch, epochs=epoch + 1, steps_per_epoch=2**31, verbose=2,
            callbacks=[mnist_model.checkpoints(ctx.absolute_path(args.model_dir))],
        )  # fmt: skip
    compat.export_saved_model(model, ctx.absolute_path(args.export_dir), ctx.job_name == "chief")


def parse(line: str) -> tuple[list[int], int]:
    """A line of CSV as pixels and label."""
    label, *pixels = map(int, line.split(","))
    return pixels, label


if __name__ == "__main__":
    from pyspark import SparkConf, SparkContext
    from tensorflowonspark import TFCluster

    sc = SparkContext(conf=SparkConf().setAppName("mnist_keras"))
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch_size", type=int, default=64, help="rows per node and step")
    parser.add_argument("--cluster_size", type=int, default=int(sc.getConf().get("spark.executor.instances", "1")))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images_labels", required=True, help="CSV: label, pixels")
    parser.add_argument("--model_dir", default="mnist_model", help="folder for the weights of each epoch")
    parser.add_argument("--export_dir", default="mnist_export", help="folder for the SavedModel")
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--tensorboard", action="store_true")
    args = parser.parse_args()

    rows = sc.textFile(args.images_labels).map(parse)
    args.pixels = len(rows.first()[0])
    cluster = TFCluster.run(
        sc, main_fun, args, args.cluster_size, num_ps=0, tensorboard=args.tensorboard, log_dir=args.model_dir,
        input_mode=TFCluster.InputMode.SPARK, master_node="chief",
    )  # fmt: skip
    cluster.train(rows, args.epochs)
    cluster.shutdown()
    sc.stop()
