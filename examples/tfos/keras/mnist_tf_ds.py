"""Keras on all nodes in step; each reads its own part of the files with tf.data. See ../README.md for the commands."""

from __future__ import annotations

import argparse

import mnist_model


def main_fun(args, ctx):
    import tensorflow as tf
    from tensorflowonspark import compat

    pattern = ctx.absolute_path(args.images_labels)
    pixels = mnist_model.pixels_in(pattern)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = mnist_model.build(pixels, args.learning_rate)
    # Files of equal number may have unequal numbers of rows, and the nodes train in step: so each repeats its files, and an epoch
    # has a fixed number of steps.
    options = tf.data.Options()
    compat.disable_auto_shard(options)
    files = tf.data.Dataset.list_files(pattern, shuffle=False).shard(ctx.num_workers, ctx.worker_num)
    rows = files.interleave(tf.data.TextLineDataset).map(lambda line: mnist_model.parse(line, pixels))
    rows = rows.shuffle(args.buffer_size).repeat().batch(args.batch_size * ctx.num_workers).with_options(options)
    model.fit(
        rows, epochs=args.epochs, steps_per_epoch=args.steps_per_epoch, verbose=2,
        callbacks=[mnist_model.checkpoints(ctx.absolute_path(args.model_dir))],
    )  # fmt: skip
    compat.export_saved_model(model, ctx.absolute_path(args.export_dir), ctx.job_name == "chief")


if __name__ == "__main__":
    from pyspark import SparkConf, SparkContext
    from tensorflowonspark import TFCluster

    sc = SparkContext(conf=SparkConf().setAppName("mnist_keras"))
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch_size", type=int, default=64, help="rows per node and step")
    parser.add_argument("--buffer_size", type=int, default=10_000, help="rows that are shuffled together")
    parser.add_argument("--cluster_size", type=int, default=int(sc.getConf().get("spark.executor.instances", "1")))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps_per_epoch", type=int, default=100)
    parser.add_argument("--images_labels", required=True, help="pattern of CSV files, such as mnist/csv/train/images_labels/part-*")
    parser.add_argument("--model_dir", default="mnist_model", help="folder for the weights of each epoch")
    parser.add_argument("--export_dir", default="mnist_export", help="folder for the SavedModel")
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--tensorboard", action="store_true")
    args = parser.parse_args()

    cluster = TFCluster.run(
        sc, main_fun, args, args.cluster_size, num_ps=0, tensorboard=args.tensorboard, log_dir=args.model_dir,
        input_mode=TFCluster.InputMode.TENSORFLOW, master_node="chief",
    )  # fmt: skip
    cluster.shutdown()
    sc.stop()
