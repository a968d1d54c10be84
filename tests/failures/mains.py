"""Programs and rows whose processes say when they come to a point. None of them needs TensorFlow."""

from __future__ import annotations

from tests.failures.points import reach
from tests.spark.mains import note

ROWS = 20_000  # in a partition: several times what the shared memory of a node holds
PAYLOAD = b"x" * 200  # a slot of 64 KiB holds fewer than 300 rows


def name(ctx):
    return f"{ctx.job_name}:{ctx.task_index}"


def train(args, ctx):
    """Read all rows and leave what came."""
    print(f"{name(ctx)} begins to train")
    reach("trainer", "start", name(ctx))
    feed = ctx.get_data_feed()
    seen = []
    marks = {"first batch": 1, "mid feed": ROWS // 2, "end of feed": ROWS - 400}
    while not feed.should_stop():
        seen += [row[:2] for row in feed.next_batch(10)]
        for when, rows in list(marks.items()):
            if len(seen) >= rows:
                del marks[when]
                reach("trainer", when, name(ctx))
    reach("trainer", "shutdown", name(ctx))
    note(args["out"], ctx, seen)


def infer(args, ctx):
    """Give each row's number back."""
    print(f"{name(ctx)} begins to infer")
    reach("trainer", "start", name(ctx))
    feed = ctx.get_data_feed(train_mode=False)
    seen = 0
    while not feed.should_stop():
        rows = feed.next_batch(50)
        seen += len(rows)
        if seen >= ROWS // 4:
            reach("trainer", "inference result", name(ctx))
        if rows:
            feed.batch_results([row[1] for row in rows])


def source(partition):
    """The rows of a partition."""
    for i in range(ROWS):
        if i == 0:
            reach("feeder", "first batch")
        if i == ROWS // 2:
            reach("feeder", "mid feed")
        yield partition, i, PAYLOAD
    reach("feeder", "end of feed")


def results(rows):
    """What a task does with results."""
    for i, row in enumerate(rows):
        if i == ROWS // 4:
            reach("feeder", "inference result")
        yield row
