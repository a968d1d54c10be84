"""The coordinator over real sockets: who may enter, orders and their answers, the ledger's questions, deaths."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import msgspec
import pytest
import zmq

from tests.support.coordinators import WAIT, Agent, agent
from tests.support.helpers import agent_config
from tfos_fast.cluster.agent.driver_link import tell_end
from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.identity import this_process
from tfos_fast.errors import ClusterTimeout


@pytest.fixture
def coordinator():
    it = Coordinator("127.0.0.1", "127.0.0.1")
    yield it
    it.close()


def test_keys_of_the_cluster_open_the_door(coordinator):
    with agent(coordinator) as a:
        assert a.handshake() == zmq.EVENT_HANDSHAKE_SUCCEEDED
        assert coordinator.nodes["worker:0"].host == "here"


def test_foreign_key_is_refused(coordinator):
    public, secret = zmq.curve_keypair()
    with agent(coordinator, public=public, secret=secret, hello=False) as a:
        a.try_to_send(m.AgentHello("worker:0", "t", "there", this_process()))
        assert a.handshake() == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    assert coordinator.nodes == {}


def test_client_without_keys_is_refused(coordinator):
    with agent(coordinator, public=b"", hello=False) as a:
        a.try_to_send(m.AgentHello("worker:0", "t", "there", this_process()))
        assert a.handshake() in (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
        assert not a.socket.poll(300)
    assert coordinator.nodes == {}


def test_two_clusters_do_not_share_keys(coordinator):
    other = Coordinator("127.0.0.1", "127.0.0.1")
    try:
        with agent(coordinator, public=other.keys.client_public, secret=other.keys.client_secret, hello=False) as a:
            assert a.handshake() == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    finally:
        other.close()


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x93\xa5Hello\x01\x02", b"\x80\x04\x95cposix\nsystem\n"])
def test_garbage_is_dropped(coordinator, garbage):
    with agent(coordinator) as a:
        a.socket.send(garbage)
        a.socket.send_multipart([b"a", b"b", b"c"])
        a.send(m.Started(this_process()))
        coordinator.wait(lambda: coordinator.nodes["worker:0"].started, WAIT, "the test")
    assert coordinator.failure is None


def test_order_waits_for_every_answer(coordinator):
    with agent(coordinator, "worker:0") as a, agent(coordinator, "worker:1") as b:
        with pytest.raises(ClusterTimeout, match="worker:0, worker:1"):
            coordinator.order(["worker:0", "worker:1"], m.EndEpoch, 0.2)
        for it in (a, b):
            a_order = it.receive()
            assert isinstance(a_order, m.EndEpoch)
            it.send(m.Ack(a_order.request, 5))
        coordinator.wait(lambda: all(n.rows_taken == 5 for n in coordinator.nodes.values()), WAIT, "the test")


def test_order_is_repeated_after_a_reconnect(coordinator):
    with agent(coordinator) as a:
        with pytest.raises(ClusterTimeout):
            coordinator.order(["worker:0"], m.EndFeed, 0.1)
        first = a.receive()
    with agent(coordinator) as again:
        assert again.receive() == first


def test_partition_moves_behind_the_watermark(coordinator):
    with agent(coordinator, "worker:0") as a, agent(coordinator, "worker:1") as b:
        a.send(m.ClaimPartition(1, "f/0", 10))
        assert a.receive() == m.ClaimGranted(1, 0)
        b.send(m.ClaimPartition(7, "f/0", 11))
        assert a.receive() == m.Fence("f/0", 11)
        assert not b.socket.poll(100)
        a.send(m.FenceDone("f/0", 11, (10, 42)))
        assert b.receive() == m.ClaimGranted(7, 42)
        a.send(m.ClaimPartition(2, "f/0", 10))
        refused = a.receive()
        assert isinstance(refused, m.ClaimRefused)
        assert "replaced by attempt 11" in refused.text
        b.send(m.PartitionDone("f/0", 11, 60))
        b.send(m.Started(this_process()))
        coordinator.wait(lambda: coordinator.nodes["worker:1"].started, WAIT, "the test")
    assert coordinator.ledger.published("f") == (1, 60)


def test_fence_is_repeated_after_a_reconnect(coordinator):
    with agent(coordinator, "worker:1") as b:
        with agent(coordinator, "worker:0") as a:
            a.send(m.ClaimPartition(1, "f/0", 10))
            a.receive()
            b.send(m.ClaimPartition(7, "f/0", 11))
            assert isinstance(a.receive(), m.Fence)
        with agent(coordinator, "worker:0") as a:
            assert a.receive() == m.Fence("f/0", 11)
            a.send(m.FenceDone("f/0", 11, (10, 3)))
            assert b.receive() == m.ClaimGranted(7, 3)


def test_agent_of_an_abandoned_try_is_stopped(coordinator):
    with agent(coordinator, token="first") as a, agent(coordinator, "worker:1", "only") as b:
        with agent(coordinator, token="second") as c:
            assert isinstance(a.receive(), m.Stop)
            coordinator.expect({"worker:0": "second", "worker:1": "only"})
            coordinator.stop_nodes()
            assert isinstance(c.receive(), m.Stop)
        assert isinstance(b.receive(), m.Stop)
    late = Agent(coordinator, token="third", hello=False)
    late.send(m.AgentHello("worker:0", "third", "here", this_process()))
    assert isinstance(late.receive(), m.Stop)
    late.close()


def test_failure_travels_and_the_first_one_stays(coordinator):
    with agent(coordinator, "worker:0") as a, agent(coordinator, "worker:1") as b:
        a.send(m.Ended(m.Failure("NodeFailed", "boom", "worker:0", "here", "Traceback ..."), 3, m.Fed(1, 3, 4)))
        coordinator.wait(lambda: coordinator.failure is not None, WAIT, "the test")
        b.send(m.Ended(m.Failure("NodeFailed", "later", "worker:1", "here"), 0))
        coordinator.wait(lambda: coordinator.nodes["worker:1"].ended, WAIT, "the test")
    assert coordinator.failure.summary == "boom"
    assert (coordinator.nodes["worker:0"].rows_taken, coordinator.nodes["worker:0"].had(1).left) == (3, 4)
    assert coordinator.nodes["worker:0"].had(2) == m.Fed(2)


def test_death_of_an_agent_on_this_host_is_seen(coordinator):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with agent(coordinator, process=this_process(child.pid)):
            child.kill()
            coordinator.wait(lambda: coordinator.failure is not None, WAIT, "the test")
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
    assert coordinator.failure.kind == "NodeLost"
    who = f"worker:0 on here: its agent (process {child.pid})"
    assert coordinator.failure.summary.startswith(f"{who} is gone, and nobody is left who could tell how it ended")


@pytest.mark.parametrize(("status", "how"), [(-9, r"was killed by signal 9 \(SIGKILL\)"), (3, "ended with status 3")])
def test_how_an_agent_ended_is_told_by_its_parent(coordinator, status, how):
    """From another host, too: its silence need not be waited for."""
    config = agent_config(coordinator, 0, this_process())
    elsewhere = m.Process(1, 1, "another machine")
    with agent(coordinator, config.name, token=config.token, process=elsewhere):
        tell_end(config, status)
        coordinator.wait(lambda: coordinator.failure is not None, WAIT, "the test")
        tell_end(config, -15)  # the first word counts
        tell_end(msgspec.structs.replace(config, token="another"), -15)
    failure = coordinator.failure
    assert re.match(rf"worker:0 on here: its agent \(process 1\) {how}", failure.summary)
    assert (failure.kind, failure.signal, len(coordinator.failures)) == ("NodeLost", max(0, -status), 1)


def test_who_has_said_goodbye_has_not_died(coordinator):
    config = agent_config(coordinator, 0, this_process())
    with agent(coordinator, config.name, token=config.token) as it:
        it.send(m.AgentBye("failed: ValueError: no"))
        tell_end(config, 1)
        coordinator.wait(lambda: coordinator.failure is not None, WAIT, "the test")
    assert [failure.kind for failure in coordinator.failures] == ["NodeFailed"]


def test_close_leaves_no_thread_and_no_descriptor():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        it = Coordinator("127.0.0.1", "127.0.0.1")
        with agent(it):
            pass
        it.close()
        it.close()
        assert not it._thread.is_alive()
    time.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_what_cannot_be_read_ends_nothing(coordinator):
    with agent(coordinator) as good, agent(coordinator, "worker:1", "u") as bad:
        bad.socket.send(b"\x95\xa5Hello\xa4\xff\xff\xff\xff\xa1a\xa1b\x90")  # text that is no UTF-8
        bad.socket.send(b"\x92\xa3Bye" + b"\x91" * 100_000)  # nesting without end
        bad.socket.send(b"\xc1" * 100)
        number = coordinator.post(["worker:0", "worker:1"], m.EndEpoch)
        for one in (good, bad):
            one.send(m.Ack(one.receive().request, 0))
        coordinator.wait(lambda: all(number in node.acks for node in coordinator.nodes.values()), WAIT, "the answers")
        assert coordinator.failure is None


@pytest.mark.parametrize("pid", [0, -1, 2**40])
def test_a_number_that_is_no_process_ends_nothing(coordinator, pid):
    me = this_process()
    with agent(coordinator, "worker:1", "u", hello=False) as bad, agent(coordinator) as good:
        bad.send(m.AgentHello("worker:1", "u", "here", m.Process(pid, me.started, me.machine)))
        number = coordinator.post(["worker:0"], m.EndEpoch)
        good.send(m.Ack(good.receive().request, 0))
        coordinator.wait(lambda: number in coordinator.nodes["worker:0"].acks, WAIT, "the answer")
        assert coordinator.failure is None
        assert set(coordinator.nodes) == {"worker:0"}, "a hello that is out of bounds is none"


def test_keys_do_not_show_their_secret(coordinator):
    assert coordinator.keys.client_secret.decode() not in repr(coordinator.keys)
