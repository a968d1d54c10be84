"""Digits, TensorFlow 1 style, nothing fed by Spark: queue runners in each worker read its share of the files.

    spark-submit --py-files mnist_net.py mnist_files.py --cluster_size 3 --num_ps 1 \\
        --input mnist/csv/train --export_dir mnist/saved_model

Input is text as ``examples/mnist/prepare.py`` writes it; ``--format tfr`` reads TFRecord files of ``tf.train.Example`` with the
features ``image`` (int64, pixels) and ``label`` (int64).
"""

from __future__ import annotations

import argparse

from pyspark import SparkContext

from tfos_fast.compat import TFCluster

CAPACITY = 512  # rows that are read ahead


def read(files: list[str], args: argparse.Namespace):
    """The graph of the input: threads that fill a queue with files, threads that fill one with rows, and a batch from that."""
    import tensorflow.compat.v1 as tf

    names = tf.train.string_input_producer(files, num_epochs=args.epochs, shuffle=True)
    if args.format == "tfr":
        _, record = tf.TFRecordReader().read(names)
        features = {"image": tf.FixedLenFeature([args.pixels], tf.int64), "label": tf.FixedLenFeature([], tf.int64)}
        example = tf.parse_single_example(record, features)
        image, label = example["image"], example["label"]
    else:
        _, line = tf.TextLineReader().read(names)
        label, *pixels = tf.decode_csv(line, [[0]] * (1 + args.pixels))
        image, label = tf.stack(pixels), tf.cast(label, tf.int64)
    return tf.train.shuffle_batch(
        [tf.cast(image, tf.float32), label], args.batch_size, CAPACITY, CAPACITY // 4, allow_smaller_final_batch=True
    )


def train(args: argparse.Namespace, ctx) -> None:
    """What runs on each node, parameter server or worker."""
    import tensorflow.compat.v1 as tf
    from mnist_net import Finished, Network, only, wait_for_chief

    tf.disable_eager_execution()
    cluster, server = ctx.start_cluster_server()
    if ctx.job_name == "ps":
        server.join()
    chief = ctx.task_index == 0
    me = f"/job:worker/task:{ctx.task_index}"
    files = sorted(tf.gfile.Glob(ctx.absolute_path(args.input) + "/part-*"))[ctx.task_index :: ctx.num_workers]
    if not files:
        raise FileNotFoundError(f"{args.input} has no files for {me}: it needs at least {ctx.num_workers}")
    with tf.device(f"{me}/cpu:0"):  # else the reader's counter of epochs would lie on a parameter server, for all workers
        images, labels = read(files, args)
    with tf.device(tf.train.replica_device_setter(worker_device=me, cluster=cluster)):
        net = Network(images, labels, args.pixels, args.learning_rate)
    size = tf.size(labels)
    finished = Finished(ctx.num_workers)
    if not chief:
        wait_for_chief(server, only(me))

    with tf.Session(server.target, config=only(me)) as session:
        if chief:
            session.run(tf.global_variables_initializer())
        session.run(tf.local_variables_initializer())
        coordinator = tf.train.Coordinator()
        threads = tf.train.start_queue_runners(session, coordinator)
        rows = 0
        try:
            while not coordinator.should_stop():
                step, loss, count, _ = session.run([net.step, net.loss, size, net.train])
                rows += count
                if step % 50 == 0:
                    print(f"step {step}: loss {loss:.3f}")
        except tf.errors.OutOfRangeError:  # the files were read so many times
            print(f"{me} trained on {rows} rows of {len(files)} files")
        finally:
            coordinator.request_stop()
        coordinator.join(threads)
        session.run(finished.tell)
        if chief:
            session.run(finished.wait)
            ctx.export_saved_model(session, args.export_dir, "serve", net.signatures)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster_size", type=int, default=3, help="nodes, parameter servers included (default: 3)")
    parser.add_argument("--num_ps", type=int, default=1)
    parser.add_argument("--input", required=True, help="folder of files part-*, on a disk that all nodes share")
    parser.add_argument("--format", choices=["csv", "tfr"], default="csv")
    parser.add_argument(
        "--pixels", type=int, default=64, help="of a digit: 64 for the bundled ones, 784 for the classic (default: 64)"
    )
    parser.add_argument("--export_dir", required=True, help="folder to write the trained model to; must not exist")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    args = parser.parse_args(argv)

    sc = SparkContext(appName="mnist-tf1-files")
    cluster = TFCluster.run(sc, train, args, args.cluster_size, args.num_ps, input_mode=TFCluster.InputMode.TENSORFLOW)
    cluster.shutdown()
    print(f"model in {args.export_dir}")
    sc.stop()


if __name__ == "__main__":
    main()
