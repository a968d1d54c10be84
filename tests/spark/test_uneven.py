"""Four nodes in step, each step behind a barrier, whatever Spark brings to each: no node waits in a step that another cannot do."""

from __future__ import annotations

import os
import signal

import pytest

import tfos_fast
from tests.spark.mains import note, noted
from tests.spark.test_distributed import agree_on_steps
from tests.support.barrier import NODES, Barrier, partitions
from tfos_fast.errors import FormError, NodeKilled, StallTimeout

MASTER = "local[4]"
SPEC = (("float32", (250,)), ("int64", ()))
SMALL = {"memory": "512k", "slot_bytes": "64k"}


def train(args, ctx):
    """Epochs in step; leaves the rows and steps of each."""
    feed = ctx.get_data_feed()
    barrier = Barrier(args["out"], ctx)
    epochs = []
    for _ in range(args["epochs"]):
        steps, rows = 0, []
        for batch in feed.batches(32, SPEC, uneven=args["uneven"]):
            barrier.meet()
            steps += 1
            rows += batch["c1"][batch["sample_weight"] == 1].tolist() if args["uneven"] == "pad" else batch["c1"].tolist()
        epochs.append([steps, rows])
    note(args["out"], ctx, epochs)


UNEVEN = [2500, 40, 0, 1, 300, 0, 900, 33]
FEW = [700, 100]


@pytest.mark.parametrize("uneven", ["stop", "pad"])
def test_four_nodes_end_at_the_same_step(sc, out, uneven):
    with tfos_fast.run(sc, train, {"out": out, "uneven": uneven, "epochs": 4}, NODES, **SMALL) as cluster:
        reports = [cluster.feed(partitions(sc, *UNEVEN), epochs=2), cluster.feed(partitions(sc, *FEW), epochs=2)]
    nodes = noted(out)
    assert len(nodes) == NODES
    for epoch, sizes in enumerate([UNEVEN, UNEVEN, FEW, FEW]):
        steps = {nodes[i][epoch][0] for i in nodes}
        assert len(steps) == 1
        rows = [row for i in nodes for row in nodes[i][epoch][1]]
        assert len(rows) == len(set(rows))
        if uneven == "pad":
            assert sorted(rows) == list(range(sum(sizes)))
            assert max(steps) >= max(sizes) / 32
        elif sizes is FEW:
            assert steps == {0}  # two nodes have no partition
    for at, report in enumerate(reports):
        mine = {f"worker:{i}": sum(len(nodes[i][epoch][1]) for epoch in (2 * at, 2 * at + 1)) for i in nodes}
        assert report.rows_of_node == mine
        assert report.rows + sum(report.rows_unused.values()) == 2 * sum([UNEVEN, FEW][at])
        assert uneven == "stop" or not report.rows_unused


def test_a_node_that_terminates_ends_the_epoch_for_all(sc, out):
    args = {"out": out, "uneven": "pad", "epochs": 2, "terminate": (3, 5)}
    with tfos_fast.run(sc, leave_together, args, NODES, **SMALL) as cluster:
        report = cluster.feed(partitions(sc, 2000, 2000, 2000, 2000), epochs=2)
    nodes = noted(out)
    assert report.ended_early["worker:3"] == "called terminate()"
    assert nodes[3][0] == 5
    assert len({nodes[i][0] for i in range(3)}) == 1
    assert [nodes[i][1] for i in range(3)] == [0, 0, 0]


def leave_together(args, ctx):
    """Epochs without a barrier: nobody waits for the one that has left."""
    feed = ctx.get_data_feed()
    epochs = []
    for _ in range(args["epochs"]):
        steps = 0
        for _ in feed.batches(32, SPEC, uneven=args["uneven"]):
            steps += 1
            if args["terminate"] == (ctx.task_index, steps):
                feed.terminate()
                break
        epochs.append(steps)
    note(args["out"], ctx, epochs)


def killed(args, ctx):
    """Steps behind a barrier; before one of them a process of node 1 is killed."""
    feed = ctx.get_data_feed()
    barrier = Barrier(args["out"], ctx)
    for step, _ in enumerate(feed.batches(32, SPEC, uneven=args["uneven"])):
        if (step, ctx.task_index) == (5, 1):
            os.kill(os.getpid() if args["killed"] == "trainer" else os.getppid(), signal.SIGKILL)
        barrier.meet()


@pytest.mark.parametrize(
    ("uneven", "process"),
    [
        ("stop", "trainer"), ("pad", "agent"),
        pytest.param("stop", "agent", marks=pytest.mark.long), pytest.param("pad", "trainer", marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_nodes_that_wait_for_a_killed_one_are_set_free(sc, out, uneven, process):
    with (
        tfos_fast.run(sc, killed, {"out": out, "uneven": uneven, "killed": process}, NODES, **SMALL) as cluster,
        pytest.raises(NodeKilled, match=rf"worker:1 on .* its {process} \(process \d+\)"),
    ):
        cluster.feed(partitions(sc, 900, 640, 700, 800))


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("uneven", ["stop", "pad"])
def test_four_nodes_in_fit_and_in_a_custom_loop(sc, out, uneven):
    """Under MultiWorkerMirroredStrategy; the second feed has fewer partitions than nodes."""
    agree_on_steps(sc, out, uneven, NODES, [3000, 70, 0, 1, 300, 0, 900, 33])


def mixed(args, ctx):
    """Only node 0 goes in step."""
    feed = ctx.get_data_feed()
    mine = {0: "stop", 1: args["other"]}[ctx.task_index]
    for _ in feed.batches(32, SPEC, uneven=mine):
        pass


@pytest.mark.parametrize(
    ("other", "error", "text"), [(None, StallTimeout, "worker:0 waits for worker:1 to read"), ("pad", FormError, "all must agree")]
)
def test_nodes_that_differ_are_told(sc, other, error, text):
    with (
        tfos_fast.run(sc, mixed, {"other": other}, 2, **SMALL) as cluster,
        pytest.raises(error, match=text),
    ):
        cluster.feed(partitions(sc, 500, 500), feed_timeout=4)
