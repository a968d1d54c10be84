"""One network whose layers lie on different nodes: layer i, its weights and its gradients on node i.

    spark-submit layers_on_nodes.py --nodes 2 --input mnist/csv/train --report report.json

Input is text as ``examples/mnist/prepare.py`` writes it. The first node gets the rows and runs the session; the others
serve their devices to it. Only activations and their gradients go from node to node.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from pyspark.sql import SparkSession

import tfos_fast

HIDDEN = 256
CLASSES = 10


def parse(line: str) -> tuple[np.ndarray, int]:
    """A line of text as a row to feed: pixels, label."""
    values = np.array(line.split(","), dtype=np.uint8)
    return values[1:], int(values[0])


def place(node: int) -> str:
    """The device that layer ``node`` is to be on, as TensorFlow writes it."""
    return f"/job:worker/replica:0/task:{node}/device:CPU:0"


def layers(tf, images, pixels: int, nodes: int):
    """The layers one after the other, each on its node; gives the last one's output."""
    sizes = [pixels] + [HIDDEN] * (nodes - 1) + [CLASSES]
    outputs = images / 255.0
    for node in range(nodes):
        with tf.device(place(node)), tf.variable_scope(f"layer{node}"):
            weights = tf.get_variable("weights", sizes[node : node + 2], initializer=tf.glorot_uniform_initializer())
            bias = tf.get_variable("bias", [sizes[node + 1]], initializer=tf.zeros_initializer())
            outputs = outputs @ weights + bias
            if node < nodes - 1:
                outputs = tf.nn.relu(outputs)
    return outputs


def where_things_ran(trace) -> dict[str, list[str]]:
    """Device -> layers whose weights were updated there, and layers whose matrices were multiplied there, from a step's trace.

    A weight is updated where it lies. This is what happened, and not what the program asked for.
    """
    found: dict[str, set[str]] = {}
    for device in trace.step_stats.dev_stats:
        for node in device.node_stats:
            parts = node.node_name.split("/")
            layer = next((part.removeprefix("update_") for part in parts if part.removeprefix("update_").startswith("layer")), None)
            what = "updated" if "ResourceApply" in node.node_name else "multiplied" if "MatMul" in node.node_name else None
            if layer and what:
                found.setdefault(device.device, set()).add(f"{layer} {what}")
    return {device: sorted(things) for device, things in found.items()}


def train(args: argparse.Namespace, ctx) -> None:
    """What runs on each node."""
    import tensorflow.compat.v1 as tf

    tf.disable_eager_execution()
    server = tf.train.Server(ctx.cluster_spec, ctx.job_name, ctx.task_index)
    if ctx.task_index:
        ctx.hold()  # serves until the driver stops it, and gets no rows
    images = tf.placeholder(tf.float32, [None, args.pixels])
    labels = tf.placeholder(tf.int64, [None])
    logits = layers(tf, images, args.pixels, ctx.num_workers)
    with tf.device(place(ctx.num_workers - 1)):
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), labels), tf.float32))
    # Without colocation the gradients would be computed on the first node, where all weights would have to come.
    step = tf.train.GradientDescentOptimizer(args.learning_rate).minimize(loss, colocate_gradients_with_ops=True)

    report: dict = {"steps": 0, "accuracy": []}
    trace = tf.RunMetadata()
    with tf.Session(server.target) as session:
        session.run(tf.global_variables_initializer())
        for batch in ctx.get_data_feed().batches(args.batch_size):
            how = {}
            if not report["steps"]:
                how = {"options": tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), "run_metadata": trace}
            found, _ = session.run([accuracy, step], {images: batch["c0"], labels: batch["c1"]}, **how)
            report["steps"] += 1
            report["accuracy"].append(float(found))
    report["devices"] = where_things_ran(trace)
    for node in range(ctx.num_workers):
        here, expected = report["devices"].get(place(node)), [f"layer{node} multiplied", f"layer{node} updated"]
        assert here == expected, f"{place(node)} did {here}, and was to do {expected}"
    Path(args.report).write_text(json.dumps(report))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2, help="nodes, and so layers (default: 2)")
    parser.add_argument("--input", required=True, help="folder of text")
    parser.add_argument("--report", required=True, help="file for what the first node saw (JSON), on a disk that the driver sees")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=0.1)
    args = parser.parse_args(argv)

    spark = SparkSession.builder.appName("layers-on-nodes").getOrCreate()
    rows = spark.sparkContext.textFile(args.input).map(parse)
    args.pixels = len(rows.first()[0])
    with tfos_fast.run(spark.sparkContext, train, args, args.nodes) as cluster:
        cluster.feed(rows, epochs=args.epochs)
    report = json.loads(Path(args.report).read_text())
    for device, things in sorted(report["devices"].items()):
        print(f"{device}: {', '.join(things)}")
    last = report["accuracy"][-10:]
    print(f"{report['steps']} steps, accuracy of the last ones {sum(last) / len(last):.2f}")
    spark.stop()


if __name__ == "__main__":
    main()
