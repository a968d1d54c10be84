"""Keras on all nodes in step; each has all data in memory, and TensorFlow deals them out. See ../README.md for the commands."""

from __future__ import annotations

import argparse

import mnist_model


def main_fun(args, ctx):
    import numpy as np
    import tensorflow as tf
    from tensorflowonspark import compat

    def load(folder):
        lines = []
        for path in sorted(tf.io.gfile.glob(f"{ctx.absolute_path(folder)}/part-*")):
            with tf.io.gfile.GFile(path) as file:
                lines += file.read().splitlines()
        values = np.loadtxt(lines, np.float32, delimiter=",")
        return values[:, 1:], values[:, 0].astype(np.int64)

    train = load(args.images_labels)
    batch = args.batch_size * args.cluster_size  # of all nodes: without a shard option, each takes its part of every batch
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = mnist_model.build(train[0].shape[1], args.learning_rate)
    rows = tf.data.Dataset.from_tensor_slices(train).shuffle(args.buffer_size, seed=0).repeat().batch(batch)
    test = tf.data.Dataset.from_tensor_slices(load(args.test)).batch(batch) if args.test else None
    history = model.fit(
        rows, epochs=args.epochs, steps_per_epoch=max(1, len(train[0]) // batch), validation_data=test, verbose=2,
        callbacks=[mnist_model.checkpoints(ctx.absolute_path(args.model_dir))],
    )  # fmt: skip
    if ctx.job_name == "chief":
        for name, values in history.history.items():
            print(name, values)
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
    parser.add_argument("--images_labels", required=True, help="folder of CSV: label, pixels")
    parser.add_argument("--test", help="such a folder, to validate with after each epoch")
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
