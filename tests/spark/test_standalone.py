"""A Master and Workers started from the pip-installed pyspark."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket

import numpy as np
import psutil
import pytest
from pyspark.sql import SparkSession

import tfos_fast
from tests.spark import mains, sparks
from tests.spark.mains import note, noted
from tests.support.spark_feeds import check_once_and_in_order, numbered
from tfos_fast.errors import NotEnoughSlots


@pytest.fixture(scope="module")
def sc(nothing_left):
    with sparks.standalone(workers=2, cores=2) as master, sparks.spark(master, **{"spark.cores.max": "4"}) as context:
        yield context


def test_feed_and_infer(sc, out):
    """Two nodes on two executors, two feed tasks at each."""
    sizes = [2000, 5, 0, 3000, 1, 700]
    with tfos_fast.run(sc, mains.collect, {"out": out}, 2, memory="8m") as cluster:
        assert len({node.executor.pid for node in cluster.nodes}) == 2
        assert cluster.feed(numbered(sc, sizes)).rows == sum(sizes)
    check_once_and_in_order(noted(out), sizes)
    with tfos_fast.run(sc, mains.label, {}, 2, memory="8m") as cluster:
        frame = SparkSession(sc).range(300, numPartitions=4).selectExpr("id", "cast(id as double) as x")
        results = cluster.infer(frame, schema="id long, twice double")
        assert [tuple(row) for row in results.collect()] == [(i, 2.0 * i) for i in range(300)]


def test_more_nodes_than_executors_share_them(sc, out):
    with tfos_fast.run(sc, mains.collect, {"out": out}, 3, memory="8m") as cluster:
        assert cluster.feed(numbered(sc, [300] * 6)).rows == 1800
    check_once_and_in_order(noted(out), [300] * 6)


def test_too_few_slots_are_told_at_once(sc):
    with pytest.raises(NotEnoughSlots, match=r"5 nodes need 5 task slots.*can have 4.*spark\.cores\.max"):
        tfos_fast.reserve(sc, 5)


def count(args, ctx):
    """Read everything, in batches; leave how many rows."""
    note(args["out"], ctx, sum(len(batch["c0"]) for batch in ctx.get_data_feed().batches(16)))


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def listening(pid):
    """Addresses at which a process takes TCP connections."""
    return {c.laddr for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN}


def test_memory_has_a_bound_and_ports_unpickle_nothing(sc, out, tmp_path):
    """Twenty times the memory of both nodes passes, while strangers knock at every port with pickles."""
    marker = str(tmp_path / "it ran")
    with tfos_fast.run(sc, count, {"out": out}, 2, memory="1m", slot_bytes="64k") as cluster:
        agents = [psutil.Process(node.agent.pid) for node in cluster.nodes]
        before = [agent.memory_info().rss for agent in agents]
        doors = set().union(*(listening(agent.pid) for agent in agents), listening(os.getpid()))
        ours = {int(node.feed_endpoint.rpartition(":")[2]) for node in cluster.nodes}
        assert ours < {door.port for door in doors}
        for door in doors:
            with (
                contextlib.suppress(OSError),
                socket.create_connection((door.ip.removeprefix("::ffff:"), door.port), 5) as stranger,
            ):
                stranger.sendall(pickle.dumps(Bomb(marker)))
        rows = sc.parallelize(range(8), 8).flatMap(lambda p: (np.full(1000, p, np.float64) for _ in range(650)))
        assert cluster.feed(rows).rows == 5200  # 41.6 MB
        grown = [agent.memory_info().rss - rss for agent, rss in zip(agents, before, strict=True)]
        assert max(grown) < 12 << 20
    assert sum(noted(out).values()) == 5200
    assert not os.path.exists(marker)


def twice(args, ctx):
    """Results for batches of up to 32; leaves how many rows each had."""
    feed = ctx.get_data_feed(train_mode=False)
    sizes = []
    while not feed.should_stop():
        rows = feed.next_batch(32)
        if rows:
            feed.batch_results([2 * row.x for row in rows])
            sizes.append(len(rows))
    note(args["out"], ctx, sizes)


def test_inference_keeps_columns_and_the_order_of_many_partitions(sc, out):
    with tfos_fast.run(sc, twice, {"out": out}, 2, memory="8m") as cluster:
        frame = SparkSession(sc).range(2000, numPartitions=200).selectExpr("id", "cast(id as double) as x")
        results = cluster.infer(frame, schema="twice double", columns=["x"], keep=["id"])
        assert [tuple(row) for row in results.collect()] == [(i, 2.0 * i) for i in range(2000)]
    sizes = [size for mine in noted(out).values() for size in mine]
    assert sum(sizes) == 2000
    assert max(sizes) <= 32
