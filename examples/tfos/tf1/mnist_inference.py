"""Digits, TensorFlow 1 style: the exported model reads digits that Spark feeds, and Spark gets the predictions back.

spark-submit mnist_inference.py --cluster_size 2 --input mnist/csv/test \\
        --export_dir mnist/saved_model --output mnist/predictions
"""

from __future__ import annotations

import argparse

import numpy as np
from pyspark import SparkContext

from tfos_fast.compat import TFCluster


def parse(line: str) -> tuple[np.ndarray, int]:
    """A line of text as a row to feed: pixels, label."""
    values = np.array(line.split(","), dtype=np.uint8)
    return values[1:], int(values[0])


def predict(args: argparse.Namespace, ctx) -> None:
    """What runs on each node: a session of its own on the model, a result for every row."""
    import tensorflow.compat.v1 as tf

    feed = ctx.get_data_feed(train_mode=False)
    with tf.Graph().as_default(), tf.Session() as session:
        model = tf.saved_model.load(session, ["serve"], args.export_dir)
        signature = model.signature_def["serving_default"]
        images, prediction = signature.inputs["images"].name, signature.outputs["prediction"].name
        while not feed.should_stop():
            batch = feed.next_batch(args.batch_size)
            if not batch:
                continue
            pixels, digits = zip(*batch, strict=True)
            found = session.run(prediction, {images: np.array(pixels)})
            feed.batch_results([f"Label: {label}, Prediction: {guess}" for label, guess in zip(digits, found, strict=True)])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster_size", type=int, default=2, help="nodes (default: 2)")
    parser.add_argument("--input", required=True, help="folder of text")
    parser.add_argument("--export_dir", required=True, help="the model that mnist_train.py or mnist_files.py exported")
    parser.add_argument("--output", required=True, help="folder for the predictions, must not exist")
    parser.add_argument("--batch_size", type=int, default=64)
    args = parser.parse_args(argv)

    sc = SparkContext(appName="mnist-tf1-inference")
    cluster = TFCluster.run(sc, predict, args, args.cluster_size, 0, input_mode=TFCluster.InputMode.SPARK)
    cluster.inference(sc.textFile(args.input).map(parse)).saveAsTextFile(args.output)
    cluster.shutdown()
    print(f"predictions in {args.output}")
    sc.stop()


if __name__ == "__main__":
    main()
