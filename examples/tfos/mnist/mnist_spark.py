"""Training and inference fed by Spark, with the flags that the walkthrough has always had. See ../README.md for the commands."""

from __future__ import annotations

import argparse

import mnist_dist
from pyspark import SparkConf, SparkContext
from tensorflowonspark import TFCluster


def numbers(line: str) -> list[int]:
    """A line of CSV."""
    return [int(value) for value in line.split(",")]


if __name__ == "__main__":
    sc = SparkContext(conf=SparkConf().setAppName("mnist_spark"))
    executors = int(sc.getConf().get("spark.executor.instances", "1"))

    parser = argparse.ArgumentParser()
    parser.add_argument("-b", "--batch_size", type=int, default=100, help="rows per node and step")
    parser.add_argument("-e", "--epochs", type=int, default=1)
    parser.add_argument("-f", "--format", choices=["csv"], default="csv")
    parser.add_argument("-i", "--images", required=True, help="CSV of pixels")
    parser.add_argument("-l", "--labels", required=True, help="CSV of one-hot labels, line for line beside the images")
    parser.add_argument("-m", "--model", default="mnist_model", help="folder of the SavedModel")
    parser.add_argument("-n", "--cluster_size", type=int, default=executors, help="nodes")
    parser.add_argument("-o", "--output", default="predictions", help="folder for the predictions, must not exist")
    parser.add_argument("-tb", "--tensorboard", action="store_true", help="start TensorBoard beside the chief")
    parser.add_argument("-X", "--mode", choices=["train", "inference"], default="train")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    args = parser.parse_args()

    images = sc.textFile(args.images).map(numbers)
    rows = images.zip(sc.textFile(args.labels).map(numbers))
    args.pixels = len(images.first())

    chief = "chief" if args.mode == "train" else None
    cluster = TFCluster.run(
        sc, mnist_dist.map_fun, args, args.cluster_size, 0, args.tensorboard, TFCluster.InputMode.SPARK,
        log_dir=args.model, master_node=chief,
    )  # fmt: skip
    if args.mode == "train":
        cluster.train(rows, args.epochs)
    else:
        cluster.inference(rows).saveAsTextFile(args.output)
    cluster.shutdown()
    sc.stop()
