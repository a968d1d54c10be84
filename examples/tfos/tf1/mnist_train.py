"""Digits, TensorFlow 1 style: parameter servers and workers, each worker's rows fed by Spark into a ``feed_dict``.

    spark-submit --py-files mnist_net.py mnist_train.py --cluster_size 3 --num_ps 1 --input mnist/csv/train \\
        --model mnist/checkpoints --export_dir mnist/saved_model

Input is text as ``examples/mnist/prepare.py`` writes it, a line ``label,pixel,pixel,...`` for each digit. Checkpoints and the
exported model are written by the parameter servers and the first worker: on a disk that all nodes share.
"""

from __future__ import annotations

import argparse

import numpy as np
from pyspark import SparkContext

from tfos_fast.compat import TFCluster, TFNode


def parse(line: str) -> tuple[np.ndarray, int]:
    """A line of text as a row to feed: pixels, label."""
    values = np.array(line.split(","), dtype=np.uint8)
    return values[1:], int(values[0])


def train(args: argparse.Namespace, ctx) -> None:
    """What runs on each node, parameter server or worker."""
    import tensorflow.compat.v1 as tf
    from mnist_net import Finished, Network, only, wait_for_chief

    tf.disable_eager_execution()
    cluster, server = TFNode.start_cluster_server(ctx)
    if ctx.job_name == "ps":
        server.join()
    chief = ctx.task_index == 0
    me = f"/job:worker/task:{ctx.task_index}"
    with tf.device(tf.train.replica_device_setter(worker_device=me, cluster=cluster)):
        images = tf.placeholder(tf.float32, [None, args.pixels])
        labels = tf.placeholder(tf.int64, [None])
        net = Network(images, labels, args.pixels, args.learning_rate)
    finished = Finished(ctx.num_workers)
    if not chief:
        wait_for_chief(server, only(me))

    feed = TFNode.DataFeed(ctx.mgr)
    with tf.train.MonitoredTrainingSession(
        master=server.target, is_chief=chief, checkpoint_dir=args.model, save_checkpoint_steps=500, config=only(me)
    ) as session:
        rows = 0
        while not feed.should_stop():
            batch = feed.next_batch(args.batch_size)
            if not batch:
                continue
            pixels, digits = zip(*batch, strict=True)
            step, loss, accuracy, _ = session.run(
                [net.step, net.loss, net.accuracy, net.train], {images: np.array(pixels), labels: np.array(digits)}
            )
            rows += len(batch)
            if step % 50 == 0:
                print(f"step {step}: loss {loss:.3f}, accuracy {accuracy:.2f}")
            if args.steps and step >= args.steps:
                feed.terminate()
        print(f"{me} trained on {rows} rows; variables on {sorted({variable.device for variable in tf.global_variables()})}")
        session.run(finished.tell)
        if chief:
            session.run(finished.wait)
            if args.export_dir:
                ctx.export_saved_model(session, args.export_dir, "serve", net.signatures)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster_size", type=int, default=3, help="nodes, parameter servers included (default: 3)")
    parser.add_argument("--num_ps", type=int, default=1)
    parser.add_argument("--driver_ps_nodes", action="store_true", help="parameter servers on the driver's host")
    parser.add_argument("--input", required=True, help="folder of text")
    parser.add_argument("--model", required=True, help="folder of checkpoints; training goes on from the last one in it")
    parser.add_argument("--export_dir", help="folder to write the trained model to, as a SavedModel; must not exist")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=0, help="stop feeding after so many steps (default: after the epochs)")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--tensorboard", action="store_true")
    args = parser.parse_args(argv)

    sc = SparkContext(appName="mnist-tf1-train")
    rows = sc.textFile(args.input).map(parse)
    args.pixels = len(rows.first()[0])
    cluster = TFCluster.run(
        sc, train, args, args.cluster_size, args.num_ps, args.tensorboard, TFCluster.InputMode.SPARK,
        log_dir=args.model, driver_ps_nodes=args.driver_ps_nodes,
    )  # fmt: skip
    if args.tensorboard:
        print(f"TensorBoard: {cluster.tensorboard_url()}")
    cluster.train(rows, args.epochs)
    cluster.shutdown()
    print(f"checkpoints in {args.model}" + (f", model in {args.export_dir}" if args.export_dir else ""))
    sc.stop()


if __name__ == "__main__":
    main()
