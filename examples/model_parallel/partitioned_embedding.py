"""Tables too large for one node: embeddings of users and items, each cut into parts that lie on different parameter servers.

    spark-submit partitioned_embedding.py --num_ps 2 --users 100000 --items 5000 --report report.json

The model says how much a user likes an item: the product of their two vectors, and the item's bias. Rows (user, item, rating) are
made up from vectors that the program does not know. The chief gets them from Spark and deals steps out to the workers, which
fetch from the parameter servers the vectors of their batch alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from pyspark.sql import SparkSession

import tfos_fast

WIDTH = 8


def ratings(args: argparse.Namespace, partition: int) -> Iterator[tuple[int, int, float]]:
    """Rows of one partition; the same each time."""
    truth = np.random.default_rng(0)
    users, items = (truth.normal(size=(count, 2)) for count in (args.users, args.items))
    draw = np.random.default_rng([1, partition])
    for user, item in zip(*(draw.integers(count, size=args.rows).tolist() for count in (args.users, args.items)), strict=True):
        yield user, item, float(users[user] @ items[item])


def parts(variable) -> list:
    """The variables that a partitioned one consists of; one that is whole is its only part."""
    return list(getattr(variable, "variables", [variable]))


def train(args: argparse.Namespace, ctx) -> None:
    """What runs on each node."""
    import tensorflow as tf

    if ctx.job_name != "chief":
        server = tf.distribute.Server(ctx.cluster_spec, ctx.job_name, ctx.task_index)
        assert server.target
        ctx.hold()  # until the driver stops it
    strategy = tf.distribute.ParameterServerStrategy(
        tf.distribute.cluster_resolver.TFConfigClusterResolver(),
        # What is smaller than a shard, such as the bias, stays whole.
        variable_partitioner=tf.distribute.experimental.partitioners.MinSizePartitioner(args.shard_bytes, args.num_ps),
    )
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    start = tf.random_normal_initializer(stddev=0.5)  # is asked for each part; a value would be made whole first, and then cut
    with strategy.scope():
        users, items = (
            tf.Variable(partial(start, (count, WIDTH)), shape=(count, WIDTH), dtype=tf.float32)
            for count in (args.users, args.items)
        )
        bias = tf.Variable(tf.zeros(args.items))
    everything = parts(users) + parts(items) + parts(bias)

    @tf.function
    def step(user, item, rating):
        def replica(user, item, rating):
            with tf.GradientTape() as tape:
                vectors = tf.nn.embedding_lookup(users, user), tf.nn.embedding_lookup(items, item)
                guess = tf.reduce_sum(vectors[0] * vectors[1], axis=1) + tf.gather(bias, item)
                losses = (guess - rating) ** 2
            for variable, slope in zip(everything, tape.gradient(losses, everything), strict=True):
                variable.scatter_sub(tf.IndexedSlices(args.learning_rate * slope.values, slope.indices))
            return tf.reduce_mean(losses)

        return strategy.run(replica, (user, item, rating))

    losses = []
    for batch in ctx.get_data_feed().tensors(args.batch_size, spec=("int64", "int64", "float32")):
        losses.append(coordinator.schedule(step, args=batch))
    coordinator.join()

    report = {
        name: [{"device": part.device, "shape": part.shape.as_list()} for part in parts(variable)]
        for name, variable in (("users", users), ("items", items), ("bias", bias))
    }
    servers = [f"/job:ps/replica:0/task:{i}/device:CPU:0" for i in range(args.num_ps)]
    for name in ("users", "items"):
        places = [part["device"] for part in report[name]]
        assert places == servers, f"{name} is on {places}, and was to be on {servers}"
    report["losses"] = [float(loss.fetch()) for loss in losses]
    Path(args.report).write_text(json.dumps(report))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_ps", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="beside the chief (default: 1)")
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument(
        "--shard_bytes", type=int, default=4_096, help="a table is cut into parts of at least so many (default: 4096)"
    )
    parser.add_argument("--report", required=True, help="file for what the chief saw (JSON), on a disk that the driver sees")
    parser.add_argument("--rows", type=int, default=20_000, help="of each of four partitions (default: 20000)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--learning_rate", type=float, default=0.05)
    args = parser.parse_args(argv)

    spark = SparkSession.builder.appName("partitioned-embedding").getOrCreate()
    rows = spark.sparkContext.parallelize(range(4), 4).flatMap(lambda partition: ratings(args, partition))
    nodes = args.num_ps + 1 + args.workers
    with tfos_fast.run(spark.sparkContext, train, args, nodes, num_ps=args.num_ps, master_node="chief") as cluster:
        cluster.feed(rows, epochs=args.epochs)
    report = json.loads(Path(args.report).read_text())
    for name in ("users", "items", "bias"):
        print(f"{name}: " + ", ".join(f"{part['shape']} on {part['device']}" for part in report[name]))
    losses = report["losses"]
    print(f"{len(losses)} steps, loss {np.mean(losses[:10]):.2f} at the beginning and {np.mean(losses[-10:]):.2f} at the end")
    spark.stop()


if __name__ == "__main__":
    main()
