"""A small U-net on images of the size that segmentation has, fed by Spark; the images are random. See ../README.md.

The program is written as such programs are: rows from ``next_batch`` through a Python generator into ``fit``, a fixed number of
steps on each node, then ``terminate()``, which ends the feed. keras/mnist_spark.py shows the way without a fixed number of steps.
"""

from __future__ import annotations

import argparse

SIDE, CLASSES = 128, 3


def make_model():
    """Three steps down, three up, with connections across."""
    from tensorflow import keras

    layers = keras.layers
    x = image = layers.Input((SIDE, SIDE, 3), name="image")
    skips = []
    for filters in (8, 16, 32):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    for skip in reversed(skips):
        x = layers.UpSampling2D()(x)
        x = layers.Concatenate()([x, skip])
        x = layers.Conv2D(skip.shape[-1], 3, padding="same", activation="relu")(x)
    mask = layers.Conv2D(CLASSES, 1, activation="softmax", name="mask")(x)
    model = keras.Model(image, mask)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def make_row(seed: int):
    """An image of random colours with a brighter square in it, and its mask: 0 outside, 1 inside, 2 the edge."""
    import numpy as np

    random = np.random.default_rng(seed)
    image = random.integers(0, 128, (SIDE, SIDE, 3), np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    top, left, size = random.integers(8, SIDE // 2, 3)
    mask[top : top + size, left : left + size] = 2
    mask[top + 2 : top + size - 2, left + 2 : left + size - 2] = 1
    image[mask == 1] += 127
    image[mask == 2] //= 4
    return image, mask


def main_fun(args, ctx):
    import tensorflow as tf
    from tensorflowonspark import TFNode, compat

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = make_model()
    feed = TFNode.DataFeed(ctx.mgr, True)

    def rows():
        while not feed.should_stop():
            for image, mask in feed.next_batch(1):
                yield image / 128.0 - 1, mask

    options = tf.data.Options()
    compat.disable_auto_shard(options)
    signature = tf.TensorSpec((SIDE, SIDE, 3), tf.float32), tf.TensorSpec((SIDE, SIDE), tf.int32)
    batches = tf.data.Dataset.from_generator(rows, output_signature=signature).batch(args.batch_size * ctx.num_workers)
    model.fit(batches.with_options(options), epochs=args.epochs, steps_per_epoch=args.steps_per_epoch, verbose=2)
    compat.export_saved_model(model, ctx.absolute_path(args.export_dir), ctx.job_name == "chief")
    feed.terminate()


if __name__ == "__main__":
    from pyspark import SparkConf, SparkContext
    from tensorflowonspark import TFCluster

    sc = SparkContext(conf=SparkConf().setAppName("segmentation"))
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch_size", type=int, default=16, help="rows per node and step")
    parser.add_argument("--cluster_size", type=int, default=int(sc.getConf().get("spark.executor.instances", "1")))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps_per_epoch", type=int, default=20)
    parser.add_argument("--images", type=int, default=1000, help="random images to make; they are fed again and again")
    parser.add_argument("--export_dir", default="segmentation_export", help="folder for the SavedModel")
    args = parser.parse_args()

    images = sc.parallelize(range(args.images), 2 * args.cluster_size).map(make_row)
    cluster = TFCluster.run(
        sc, main_fun, args, args.cluster_size, num_ps=0, input_mode=TFCluster.InputMode.SPARK, master_node="chief"
    )
    cluster.train(images, 1000)  # more than enough: terminate() ends it
    cluster.shutdown()
    sc.stop()
