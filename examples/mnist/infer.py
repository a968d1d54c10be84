"""Let the trained network read handwritten digits: inference on the cluster, an RDD in and an RDD of lines out.

    python infer.py --input demo-output/csv/test --model demo-output/model.keras --output demo-output/predictions

The output is a folder of text parts with lines such as ``2026-11-22T12:00:00.000001 Label: 7, Prediction: 7``.
"""

from __future__ import annotations

import argparse
import datetime
import re

import numpy as np
from pyspark.sql import SparkSession

import tfos_fast


def parse(line: str) -> tuple[np.ndarray, int]:
    """A line of CSV as a row to feed: the pixels, and the label that stands before them."""
    values = np.array(line.split(","), dtype=np.uint8)
    return values[1:], int(values[0])


def predict(args: argparse.Namespace, ctx) -> None:
    """What runs on each node: one result for every row, in the order in which the rows come."""
    import tensorflow as tf

    model = tf.keras.models.load_model(args.model)
    feed = ctx.get_data_feed(train_mode=False)
    for images, labels in feed.tensors(args.batch_size):
        predictions = np.argmax(model(images), axis=1)
        now = datetime.datetime.now().isoformat()
        feed.batch_results([f"{now} Label: {y}, Prediction: {p}" for y, p in zip(labels.numpy(), predictions, strict=True)])


def is_right(line: str) -> bool:
    """Whether a line of the output has the label as its prediction."""
    label, prediction = re.findall(r": (\d+)", line.partition(" ")[2])
    return label == prediction


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="CSV as prepare.py writes it")
    parser.add_argument("--model", required=True, help="the model that train.py saved, on a disk that all nodes share")
    parser.add_argument("--output", required=True, help="folder for the predictions, must not exist")
    parser.add_argument("--nodes", type=int, default=2, help="TensorFlow nodes (default: 2)")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args(argv)

    spark = SparkSession.builder.appName("mnist-infer").getOrCreate()
    sc = spark.sparkContext
    with tfos_fast.run(sc, predict, args, num_executors=args.nodes) as cluster:
        cluster.infer(sc.textFile(args.input).map(parse)).saveAsTextFile(args.output)
    lines = sc.textFile(args.output)
    rows, right = lines.count(), lines.filter(is_right).count()
    print(f"wrote {rows} predictions to {args.output}")
    print(f"test accuracy: {100 * right / rows:.1f} % ({right} of {rows})")
    spark.stop()


if __name__ == "__main__":
    main()
