"""Programs that the tests run on the nodes. They write what they saw into a folder, one file per node."""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from pathlib import Path


def note(folder, ctx, value, kind="rows"):
    """Leave a value for the test, whole or not at all."""
    path = Path(folder) / f"{kind}-{ctx.task_index}.json"
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(value))
    unfinished.rename(path)


def noted(folder, kind="rows"):
    """What the nodes left: number of node -> value."""
    return {int(path.stem.split("-")[1]): json.loads(path.read_text()) for path in Path(folder).glob(f"{kind}-*.json")}


def collect(args, ctx):
    """Read all rows as they were fed and leave them."""
    feed = ctx.get_data_feed()
    rows = []
    while not feed.should_stop():
        rows += feed.next_batch(args.get("batch", 50))
        if args.get("pause"):
            time.sleep(args["pause"])
    note(args["out"], ctx, rows)


def collect_and_linger(args, ctx):
    """As ``collect``; what comes after the feed takes a moment."""
    feed = ctx.get_data_feed()
    rows = []
    while not feed.should_stop():
        rows += feed.next_batch(50)
    time.sleep(1)
    note(args["out"], ctx, rows)


def keep(args, ctx):
    """Read all rows as they were fed and leave them, types included."""
    feed = ctx.get_data_feed()
    rows = []
    while not feed.should_stop():
        rows += feed.next_batch(50)
    Path(args["out"], f"rows-{ctx.task_index}.pickle").write_bytes(pickle.dumps(rows))


def kept(folder):
    """What ``keep`` left at all nodes."""
    return [row for path in Path(folder).glob("rows-*.pickle") for row in pickle.loads(path.read_bytes())]


def describe(args, ctx):
    """Leave what a program may want to know about its surroundings."""
    import importlib

    from pyspark import SparkFiles

    print(f"{ctx.job_name}:{ctx.task_index} was here")
    feed = ctx.get_data_feed()
    broadcast = args["broadcast"]
    note(
        args["out"],
        ctx,
        {
            "job_name": ctx.job_name,
            "executor_id": ctx.executor_id,
            "num_workers": ctx.num_workers,
            "cluster_spec": ctx.cluster_spec,
            "tf_config": os.environ["TF_CONFIG"],
            "environ": os.environ.get("TFOS_TEST_SETTING"),
            "cwd": os.getcwd(),
            "file": Path(SparkFiles.get("words.txt")).read_text(),
            "module": importlib.import_module("tfos_test_module").NAME,
            "broadcast": broadcast.value,
            "pid": os.getpid(),
            "session": os.getsid(0),
        },
    )
    while not feed.should_stop():
        feed.next_batch(10)


def arguments(args, ctx):
    """Leave sys.argv."""
    note(args[0], ctx, sys.argv)


def square(args, ctx):
    """Inference: the square of each row."""
    feed = ctx.get_data_feed(train_mode=False)
    while not feed.should_stop():
        rows = feed.next_batch(args.get("batch", 16))
        if rows:
            feed.batch_results([row * row for row in rows])


def label(args, ctx):
    """Inference on rows with columns: a result of two named columns."""
    feed = ctx.get_data_feed(train_mode=False)
    while not feed.should_stop():
        rows = feed.next_batch(8)
        if rows:
            feed.batch_results([{"id": row["id"], "twice": row["x"] * 2} for row in rows])


def fail_at(args, ctx):
    """Raise after some rows at one node."""
    feed = ctx.get_data_feed()
    seen = 0
    while not feed.should_stop():
        seen += len(feed.next_batch(10))
        if ctx.task_index == args["node"] and seen >= args["rows"]:
            raise ArithmeticError(f"seen {seen} rows, that is too many")


def fail_late(args, ctx):
    """Raise after the end of the feed."""
    feed = ctx.get_data_feed()
    while not feed.should_stop():
        feed.next_batch(10)
    if ctx.task_index == 1:
        raise LookupError("the model could not be saved")


def fail_everywhere(args, ctx):
    """Raise at every node when the file ``go`` is there."""
    while not os.path.exists(args["go"]):
        time.sleep(0.01)
    print("a last line")
    raise LookupError(f"the model of {ctx.task_index} could not be saved")


def stop_early(args, ctx):
    """Take some rows; then terminate (``how='terminate'``) or return."""
    feed = ctx.get_data_feed()
    seen = 0
    while not feed.should_stop() and seen < args["rows"]:
        seen += len(feed.next_batch(10))
    if args["how"] == "terminate":
        feed.terminate()
    note(args["out"], ctx, seen)


def slow(args, ctx):
    """Read slowly and say one's process id, for those who want to kill it."""
    feed = ctx.get_data_feed()
    note(args["out"], ctx, os.getpid(), "pid")
    while not feed.should_stop():
        feed.next_batch(1)
        time.sleep(args.get("pause", 0.01))


def slow_count(args, ctx):
    """Read 50 rows every tenth of a second, and count them."""
    feed = ctx.get_data_feed()
    rows = 0
    while not feed.should_stop():
        rows += len(feed.next_batch(50))
        time.sleep(0.1)
    note(args["out"], ctx, rows)


def deaf(args, ctx):
    """Begin to read and never go on."""
    feed = ctx.get_data_feed()
    feed.next_batch(1)
    note(args["out"], ctx, os.getpid(), "pid")
    time.sleep(3600)


def alone(args, ctx):
    """A program that reads its data itself."""
    note(args["out"], ctx, ctx.num_workers)


def checksum(args, ctx):
    """Read large rows and keep only counts."""
    feed = ctx.get_data_feed()
    rows, total, last, in_order = 0, 0, {}, True
    while not feed.should_stop():
        for partition, i, values in feed.next_batch(100):
            in_order &= last.get(partition, -1) + 1 == i
            last[partition] = i
            rows += 1
            total += int(values.sum())
    note(args["out"], ctx, {"rows": rows, "sum": total, "in_order": in_order})


def fail_in_a_moment(args, ctx):
    """Take the rows of a feed, and raise some time after."""
    ctx.get_data_feed().next_batch(10)
    time.sleep(1)
    raise ValueError("it went wrong later")


def one_of_two(args, ctx):
    """Node 0 takes 10 rows and returns, node 1 takes all it can get."""
    feed = ctx.get_data_feed()
    seen = 0
    while not feed.should_stop() and (ctx.task_index or seen < 10):
        seen += len(feed.next_batch(10))
    note(args["out"], ctx, seen)


def bad_inference(args, ctx):
    """Fail at a row."""
    feed = ctx.get_data_feed(train_mode=False)
    while not feed.should_stop():
        for row in feed.next_batch(1):
            if row == 7:
                raise ValueError("cannot label 7")
            feed.batch_results([row])


def predict(args, ctx):
    """Inference with arrays in and arrays out: ``how`` says in which form the results are given."""
    import numpy as np

    feed = ctx.get_data_feed(train_mode=False)
    for batch in feed.batches(args.get("batch", 64)):
        x = batch["x"] if "x" in batch else batch["c0"]
        doubled = np.asarray(x, np.float32) * 2
        wide = np.repeat(doubled[:, None], args.get("width", 3), axis=1)
        forms = {"array": doubled, "matrix": wide, "dict": {"y": doubled, "z": wide}, "tuple": (doubled, wide)}
        feed.batch_results(forms[args["how"]])


def hold(args, ctx):
    """Serve others, once told to."""
    while not Path(args["out"], "go").exists():
        time.sleep(0.01)
    ctx.hold()


def in_step(args, ctx):
    """Steps that all nodes can do, and then one look at a second feed; leave the steps, and the rows of both."""
    feed = ctx.get_data_feed()
    steps, rows = 0, 0
    for batch in feed.batches(10, {"id": "int64"}, uneven="stop"):
        steps, rows = steps + 1, rows + len(batch["id"])
    second = ctx.get_data_feed(name="validation")
    looked = [int(i) for batch in second.batches(10) for i in batch["id"]]
    note(args["out"], ctx, {"steps": steps, "rows": rows, "looked": looked})
