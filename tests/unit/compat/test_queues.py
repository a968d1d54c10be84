"""Queues of ``ctx.mgr``, and what goes through them, as programs for TensorFlowOnSpark use them."""

from __future__ import annotations

import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from tests.support.helpers import ended, in_thread
from tfos_fast.channel import Channel
from tfos_fast.cluster.trainer.context import Context
from tfos_fast.compat import TFNode, node
from tfos_fast.errors import ClusterError, NotThere

QUEUES = ("input", "output", "error", "mine")


def run(map_fun: Callable[[Any], Any], channel: Channel | None = None, role: str = "worker", *, spec: Any = None) -> Any:
    """``map_fun(ctx)`` on a node; returns what it gave."""
    told: list[Any] = []
    spec = spec or {"worker": ["a:1"], "ps": ["a:2"]}
    context = Context(role, 0, 0, spec, address="" if channel is None else channel.address)
    node.NodeMain(None, lambda args, ctx: told.append(map_fun(ctx)), "", "", QUEUES, True)(None, context)
    return told[0]


def fed(channel: Channel, rows: Iterable[Any]) -> None:
    with channel.writer() as writer:
        writer.write_rows(rows)


@pytest.fixture
def channel():
    with Channel.create(memory="1m", slot_bytes="64k", form="rows") as made:
        yield made


def drained(ctx: Any) -> int:
    """As terminate() of the original does it."""
    rows, count = ctx.mgr.get_queue("input"), 0
    while True:
        try:
            rows.get(block=True, timeout=0.2)
        except queue.Empty:
            return count
        rows.task_done()
        count += 1
        assert count < 2000


def test_the_end_of_the_queue_is_one_none(channel):
    feeder, _ = in_thread(lambda: fed(channel, range(500)))
    assert run(drained, channel) == 501
    ended(feeder)


def test_a_queue_is_empty_while_no_row_comes():
    go = threading.Event()

    def feed() -> None:
        fed(channel, range(3))
        go.wait(20)
        fed(channel, range(3, 5))

    def map_fun(ctx: Any) -> list[Any]:
        rows = ctx.mgr.get_queue("input")
        got = [rows.get() for _ in range(3)]
        for how in ({"block": False}, {"timeout": 0.1}):
            with pytest.raises(queue.Empty):
                rows.get(**how)
        with pytest.raises(queue.Empty):
            rows.get_nowait()
        assert (rows.qsize(), rows.full()) == (1, False)
        go.set()
        got += [rows.get(timeout=20), rows.get(True, 20), rows.get(), rows.get()]
        assert (rows.qsize(), rows.empty()) == (0, True)
        with pytest.raises(NotThere, match=r"come into the queue 'input' by cluster.train"):
            rows.put(1)
        return got

    with Channel.create(memory="1m", slot_bytes="64k", form="rows", writers=2) as channel:
        feeder, _ = in_thread(feed)
        assert run(map_fun, channel) == [0, 1, 2, 3, 4, None, None]
        ended(feeder)


def test_terminated_by_its_state_the_queue_drains(channel):
    def map_fun(ctx: Any) -> tuple[int, bool]:
        feed = TFNode.DataFeed(ctx.mgr)
        assert len(feed.next_batch(10)) == 10
        ctx.mgr.set("state", "terminating")
        return drained(ctx), feed.should_stop()

    feeder, _ = in_thread(lambda: fed(channel, range(10**9)))
    count, stopped = run(map_fun, channel)
    assert count <= 1
    assert stopped
    ended(feeder)


def test_forked_processes_share_queues():
    def work(ctx: Any) -> None:
        ctx.mgr.get_queue("mine").put({"loss": 0.5})
        ctx.mgr.get_queue("error").put("Traceback: " + 100_000 * "x")

    def map_fun(ctx: Any) -> Any:
        child = multiprocessing.get_context("fork").Process(target=work, args=(ctx,))
        child.start()
        told.append(ctx.mgr.get_queue("mine").get())
        ctx.mgr.get_queue("mine").task_done()

    told: list[Any] = []
    with Channel.create(memory="1m", slot_bytes="64k", form="rows") as channel:
        feeder, _ = in_thread(lambda: None)
        with pytest.raises(ClusterError, match="map_fun put this into the queue 'error': Traceback: xxx"):
            run(map_fun, channel, "ps")
        ended(feeder)
    assert told == [{"loss": 0.5}]


def test_forked_processes_share_values():
    def map_fun(ctx: Any) -> list[Any]:
        child = multiprocessing.get_context("fork").Process(target=ctx.mgr.set, args=("epoch", {"number": 3}))
        child.start()
        child.join(20)
        ctx.mgr.set("other", 1)
        return [ctx.mgr.get("epoch"), ctx.mgr.get("other"), str(ctx.mgr.get("state")), ctx.mgr.get("nothing")]

    assert run(map_fun) == [{"number": 3}, 1, "'running'", None]


def test_a_queue_for_training_and_one_of_another_name(channel):
    """Rows of the feed stay rows of the queue 'input' when another feed was opened in between."""
    with Channel.create(memory="1m", slot_bytes="64k", form="rows") as second:

        class Two(Context):
            def get_data_feed(self, train_mode: bool = True, *, name: str = "") -> Any:
                return named.get_data_feed() if name else super().get_data_feed(train_mode)

        def map_fun(args: Any, ctx: Any) -> None:
            mine, rows = ctx.mgr.get_queue("mine"), ctx.mgr.get_queue("input")
            got = [rows.get(), mine.get(), rows.get(), mine.get()]
            got += [ctx.get_data_feed(qname_in="mine").next_batch(1), rows.get(), rows.get(), mine.get()]
            mine.put("own")
            got += [mine.get(timeout=20)]
            with pytest.raises(queue.Empty):
                mine.get(timeout=0.1)
            told.append(got)

        told: list[Any] = []
        named = Context("worker", 0, 0, {}, address=second.address)
        feeders = [in_thread(lambda: fed(channel, ["a", "b", "c"]))[0], in_thread(lambda: fed(second, range(3)))[0]]
        context = Two("worker", 0, 0, {"worker": ["a:1"]}, address=channel.address)
        node.NodeMain(None, map_fun, "", "", QUEUES, True)(None, context)
        assert told == [["a", 0, "b", 1, [2], "c", None, None, "own"]]
        for feeder in feeders:
            ended(feeder)


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_several_feeds_of_one_queue_are_one(channel, order: Any):
    """One is made for training and another one for inference; whichever reads has the rows, and results go back."""
    got: list[Any] = []

    def exchange() -> None:
        with channel.writer() as writer:
            got.extend(row for part in writer.exchange(iter(range(50)), "p") for row in part)

    def map_fun(ctx: Any) -> int:
        one, other = (TFNode.DataFeed(ctx.mgr, train_mode) for train_mode in order)
        seen = 0
        while not one.should_stop():
            rows = other.next_batch(5) if seen else one.next_batch(5)
            seen += len(rows)
            other.batch_results([-row for row in rows])
        one.terminate()
        return seen

    feeder, _ = in_thread(exchange)
    assert run(map_fun, channel) == 50
    ended(feeder)
    assert got == [-i for i in range(50)]


def test_a_ps_looks_at_its_queues():
    def map_fun(ctx: Any) -> list[Any]:
        control, mine = ctx.mgr.get_queue("control"), ctx.mgr.get_queue("mine")
        assert control.empty()
        mine.put(1)
        control.put_nowait(None)
        return [mine.get(timeout=20), control.get(timeout=20)]

    assert run(map_fun, role="ps") == [1, None]


@pytest.mark.parametrize("size", [np.int64(3), 8 / 3, 2.5, np.float32(3)])
def test_batches_of_as_many_rows_as_a_division_gives(channel, size: Any):
    def map_fun(ctx: Any) -> list[Any]:
        feed = ctx.get_data_feed()
        assert feed.next_batch(0) == []
        return [feed.next_batch(size) for _ in range(2)]

    feeder, _ = in_thread(lambda: fed(channel, range(6)))
    assert run(map_fun, channel) == [[0, 1, 2], [3, 4, 5]]
    ended(feeder)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return type(right) is type(left) and right.dtype == left.dtype and np.array_equal(left, right)
    return type(left) is type(right) and left == right


@pytest.mark.parametrize(
    "results",
    [
        lambda n: np.arange(n, dtype=np.float32) / np.float32(3),
        lambda n: np.arange(n),
        lambda n: np.arange(n) > 2,
        lambda n: np.array([f"label {i}" for i in range(n)]),
        lambda n: np.array([b"%d" % i for i in range(n)]),
        lambda n: np.arange(n).astype("M8[s]"),
        lambda n: np.arange(n, dtype=np.float16),
        lambda n: np.array([(i, i / 2) for i in range(n)], [("a", "i4"), ("b", "f4")]),
        lambda n: np.ones((n, 2, 3), np.float32),
        lambda n: [np.array(i, np.float32) for i in range(n)],
        lambda n: tuple(range(n)),
        lambda n: zip(np.arange(n, dtype=np.float32), range(n), strict=True),
        lambda n: {f"key {i}": i for i in range(n)},
        lambda n: range(n),
    ],
)
def test_each_result_is_what_iterating_gives(channel, results: Any):
    """As the original has it, which puts the items into a queue."""
    got: list[Any] = []

    def exchange() -> None:
        with channel.writer() as writer:
            got.extend(row for part in writer.exchange(iter(range(10)), "p") for row in part)

    def map_fun(ctx: Any) -> None:
        feed = ctx.get_data_feed(False)
        while not feed.should_stop():
            rows = feed.next_batch(10)
            if rows:
                feed.batch_results(results(len(rows)))

    feeder, _ = in_thread(exchange)
    run(map_fun, channel)
    ended(feeder)
    expected = [*results(10)]
    assert all(same(left, right) for left, right in zip(expected, got, strict=True)), got


def test_the_feed_has_its_queues(channel):
    def map_fun(ctx: Any) -> Any:
        feed = ctx.get_data_feed()
        assert feed.queue_out.empty()
        begin = time.monotonic()
        while feed.queue_in.qsize() and time.monotonic() < begin + 20:
            row = feed.queue_in.get()
        return row

    feeder, _ = in_thread(lambda: fed(channel, range(30)))
    assert run(map_fun, channel) in (29, None)
    ended(feeder)
