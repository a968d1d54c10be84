"""A SavedModel on many executors side by side, each with its part of the files. See ../README.md for the commands."""

from __future__ import annotations

import argparse

import mnist_model


def inference(args, ctx):
    import tensorflow as tf

    predict = tf.saved_model.load(args.export_dir).signatures["serving_default"]
    (name,) = predict.structured_input_signature[1]
    (result,) = predict.structured_outputs
    pixels = predict.structured_input_signature[1][name].shape[1]

    files = tf.data.Dataset.list_files(f"{args.images_labels}/part-*", shuffle=False).shard(ctx.num_workers, ctx.worker_num)
    rows = files.interleave(tf.data.TextLineDataset).map(lambda line: mnist_model.parse(line, pixels)).batch(args.batch_size)
    tf.io.gfile.makedirs(args.output)
    with tf.io.gfile.GFile(f"{args.output}/part-{ctx.worker_num:05d}", "w") as file:
        for images, labels in rows:
            digits = tf.argmax(predict(**{name: images})[result], axis=1)
            for label, digit in zip(labels.numpy(), digits.numpy(), strict=True):
                file.write(f"Label: {label}, Prediction: {digit}\n")


if __name__ == "__main__":
    from pyspark import SparkConf, SparkContext
    from tensorflowonspark import TFParallel

    sc = SparkContext(conf=SparkConf().setAppName("mnist_inference"))
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--cluster_size", type=int, default=int(sc.getConf().get("spark.executor.instances", "1")))
    parser.add_argument("--images_labels", required=True, help="folder of CSV: label, pixels")
    parser.add_argument("--export_dir", default="mnist_export", help="folder of the SavedModel")
    parser.add_argument("--output", default="predictions")
    args = parser.parse_args()

    TFParallel.run(sc, inference, args, args.cluster_size)
    sc.stop()
