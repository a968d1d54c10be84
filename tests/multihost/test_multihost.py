"""Executors on hosts of their own (namespaces): feeding over the network, a link that is cut, a stranger. ``make multihost``."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

import pytest
import zmq

import tfos_fast
from tests.multihost.hosts import NET, missing, seconds, standalone
from tests.spark import mains, sparks
from tests.spark.mains import noted
from tfos_fast.errors import NodeKilled

_WHY = missing() if os.environ.get("TFOS_MULTIHOST") else "make multihost runs these"
pytestmark = [pytest.mark.skipif(bool(_WHY), reason=_WHY), pytest.mark.timeout(180)]

SETTINGS = {
    "spark.driver.host": f"{NET}.1",
    "spark.driver.bindAddress": f"{NET}.1",
    "spark.cores.max": "4",
    # A host that is cut off is Spark's to notice, too, before its tasks are tried again.
    "spark.executor.heartbeatInterval": "1s",
    "spark.network.timeout": "8s",
    "spark.network.timeoutInterval": "1s",
    "spark.storage.blockManagerHeartbeatTimeoutMs": "8000",
}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with standalone(2, 2, tmp_path_factory.mktemp("hosts")) as (master, hosts):
        yield master, hosts


@pytest.fixture
def sc(network):
    master, hosts = network
    with sparks.spark(master, **SETTINGS) as context:
        yield context
    for host in hosts:
        host.mend()


def rows(sc, sizes, pause=0.0, *, again=False):
    """(partition, row, host that made it), in partitions of these sizes; ``again``: no host, as they are to come out the same."""

    def make(p):
        for row in range(sizes[p]):
            if pause and row % 100 == 0:
                time.sleep(pause)
            yield p, row, "" if again else socket.gethostname()

    return sc.parallelize(range(len(sizes)), len(sizes)).flatMap(make)


def check(out, sizes):
    """Every row once; gives the hosts that made them."""
    seen = [row for node in noted(str(out)).values() for row in node]
    assert sorted(tuple(row[:2]) for row in seen) == [(p, row) for p, size in enumerate(sizes) for row in range(size)]
    return {row[2] for row in seen}


def test_executors_without_a_node_feed_one_on_another_host(sc, network, tmp_path):
    sizes = [3000] * 8
    with tfos_fast.run(sc, mains.collect, {"out": str(tmp_path)}, 1, memory="8m") as cluster:
        assert cluster.feed(rows(sc, sizes, 0.002)).rows == sum(sizes)
    assert check(tmp_path, sizes) == {host.name for host in network[1]}


def test_results_go_back_over_the_network(sc):
    with tfos_fast.run(sc, mains.label, {}, 1, memory="8m") as cluster:
        data = sc.parallelize(range(2000), 8).map(lambda i: {"id": i, "x": float(i)})
        assert cluster.infer(data).collect() == [{"id": i, "twice": 2.0 * i} for i in range(2000)]


def test_a_node_whose_link_is_cut_is_told_by_name(sc, network, tmp_path, capsys):
    with pytest.raises(NodeKilled, match=r"worker:\d on .*: nothing was heard of its agent") as caught:
        with tfos_fast.run(sc, mains.collect, {"out": str(tmp_path)}, 2, memory="8m") as cluster:
            victim = next(host for host in network[1] if host.name == cluster.nodes[1].host)
            timer = threading.Timer(2, victim.cut)
            timer.start()
            begin = time.monotonic() + 2
            try:
                cluster.feed(rows(sc, [10**6] * 4, 0.05))
            finally:
                told = seconds(begin)
                timer.join()
    assert caught.value.node == "worker:1"
    with capsys.disabled():
        print(f"\na node's link was cut: told after {told}")


def test_a_feeder_whose_link_is_cut_is_replaced_and_every_row_comes_once(sc, network, tmp_path, capsys):
    sizes = [4000] * 4
    with tfos_fast.run(sc, mains.collect, {"out": str(tmp_path)}, 1, memory="8m") as cluster:
        victim = next(host for host in network[1] if host.name != cluster.nodes[0].host)
        timer = threading.Timer(2, victim.cut)
        timer.start()
        begin = time.monotonic() + 2
        assert cluster.feed(rows(sc, sizes, 0.1, again=True)).rows == sum(sizes)
        took = seconds(begin)
    check(tmp_path, sizes)
    with capsys.disabled():
        print(f"\na feeder's link was cut: all rows were there {took} later")


def test_a_stranger_on_the_network_gets_nothing(sc, tmp_path):
    sizes = [500] * 4
    with tfos_fast.run(sc, mains.collect, {"out": str(tmp_path)}, 1, memory="8m") as cluster:
        host, _, port = cluster.nodes[0].feed_endpoint.rpartition(":")
        assert host != "127.0.0.1"
        with socket.create_connection((host, int(port)), 10) as raw:
            raw.sendall(b"GET / HTTP/1.0\r\n\r\n" + bytes(100))
            raw.settimeout(30)
            heard = b""
            with contextlib.suppress(ConnectionResetError):  # it has not read all that was sent
                while some := raw.recv(1000):
                    heard += some
            assert len(heard) <= 64  # ZeroMQ's greeting, which says its version and the word CURVE
        context = zmq.Context()
        try:
            with context.socket(zmq.DEALER) as stranger:
                stranger.linger = 0
                stranger.curve_serverkey = cluster.nodes[0].feed_key.encode()  # even so
                stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
                stranger.connect(f"tcp://{host}:{port}")
                stranger.send(b"let me in")
                assert not stranger.poll(2000)
        finally:
            context.term()
        assert cluster.feed(rows(sc, sizes)).rows == sum(sizes)
    check(tmp_path, sizes)
