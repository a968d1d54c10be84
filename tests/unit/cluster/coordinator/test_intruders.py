"""Strangers and broken clients at the coordinator's door: it goes on serving those who belong to the cluster."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import hypothesis
import msgspec
import psutil
import pytest
import zmq
from hypothesis import strategies as st

from tests.support import attack
from tests.support.coordinators import WAIT, agent
from tfos_fast.cluster.coordinator import coordinator as coordinator_module
from tfos_fast.cluster.coordinator import endpoint as module
from tfos_fast.cluster.coordinator import membership
from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol import task_news
from tfos_fast.cluster.protocol.identity import this_process

MANY = 300


@pytest.fixture
def coordinator(monkeypatch):
    monkeypatch.setattr(module, "HANDSHAKE", 1.0)
    it = Coordinator("127.0.0.1", "127.0.0.1")
    yield it
    it.close()
    assert it.failure is None


def serves(a, number=[0]):  # noqa: B006
    """The coordinator answers this agent."""
    number[0] += 1
    a.send(m.ClaimPartition(number[0], f"job{number[0]}/0", 1))
    while (answer := a.receive()) != m.ClaimGranted(number[0], 0):
        assert not isinstance(answer, m.ClaimRefused)


def test_openings_without_a_key(coordinator):
    endpoint = coordinator.keys.endpoint
    with agent(coordinator) as a, contextlib.ExitStack() as stack:
        left = {
            what: stack.enter_context(attack.connections(endpoint, 1, opening))[0]
            for what, opening in attack.OPENINGS.items()
            if len(opening) < 10_000
        }
        for opening in attack.OPENINGS.values():
            attack.say(endpoint, opening)
        serves(a)
        assert set(coordinator.nodes) == {"worker:0"}
        for what, connection in left.items():
            assert attack.closed_by_peer(connection, WAIT), f"after {what!r} the connection stays"
        serves(a)


def test_flood_of_half_open_connections(coordinator):
    before = len(os.listdir("/proc/self/fd"))
    with agent(coordinator) as a:
        for opening in (b"", attack.greeting(b"CURVE")):
            with attack.connections(coordinator.keys.endpoint, MANY, opening) as flood:
                serves(a)
                with agent(coordinator, "worker:1") as late:  # who has the key still gets in
                    serves(late)
                assert all(attack.closed_by_peer(connection, WAIT) for connection in flood)
                serves(a)
    with agent(coordinator) as again:
        serves(again)
    assert len(os.listdir("/proc/self/fd")) < before + 50


def test_frames_said_to_be_huge_take_no_memory(coordinator):
    process = psutil.Process()
    with agent(coordinator) as a:
        before = process.memory_info().rss
        opening = attack.greeting(b"CURVE") + attack.huge_frame(module.MAX_MESSAGE)
        with attack.connections(coordinator.keys.endpoint, 100, opening) as flood:
            serves(a)
            assert process.memory_info().rss - before < 50 << 20
            assert all(attack.closed_by_peer(connection, WAIT) for connection in flood)


def test_a_message_too_large_ends_its_connection_only(coordinator):
    with agent(coordinator) as a, agent(coordinator, "worker:1") as b:
        b.socket.send(bytes(module.MAX_MESSAGE + 1))
        serves(a)
        serves(a)
        assert not coordinator.nodes["worker:1"].gone


def test_replay_of_a_recorded_session(coordinator):
    keys = coordinator.keys
    with attack.Proxy(keys.endpoint) as proxy:
        options = {"curve_serverkey": keys.server_public, "curve_publickey": keys.client_public}
        options |= {"curve_secretkey": keys.client_secret, "routing_id": m.routing_id("worker:0", "t")}
        with attack.dealer(proxy.endpoint, **options) as client:
            client.send(m.encode(m.AgentHello("worker:0", "t", "here", this_process())))
            client.send(m.encode(m.Started(this_process())))
            assert client.poll(10_000)
            coordinator.wait(lambda: coordinator.nodes["worker:0"].started, WAIT, "the test")
    recorded = bytes(proxy.said[0])
    for secret in (keys.client_secret, b"Started", b"worker:0"):
        assert secret not in recorded
    node = coordinator.nodes["worker:0"]
    heard, node.started = node.connected, False
    with agent(coordinator, "worker:1") as other:
        attack.say(keys.endpoint, recorded)
        serves(other)
        assert not node.started

        @hypothesis.settings(attack.LIVE, max_examples=40)
        @hypothesis.given(attack.mutated(recorded))
        def tries(data):
            attack.say(keys.endpoint, data)

        tries()
        serves(other)
    assert (node.connected, node.started, set(coordinator.nodes)) == (heard, False, {"worker:0", "worker:1"})


def test_a_changed_byte_on_the_way_is_noticed(coordinator):
    """The connection ends, and the client's next one is as good as ever."""
    keys = coordinator.keys
    with attack.Proxy(keys.endpoint) as proxy:
        options = {"curve_serverkey": keys.server_public, "curve_publickey": keys.client_public}
        options |= {"curve_secretkey": keys.client_secret, "routing_id": m.routing_id("worker:0", "t"), "reconnect_ivl": 10}
        with attack.dealer(proxy.endpoint, **options) as client:
            hello = m.encode(m.AgentHello("worker:0", "t", "here", this_process()))
            client.send(hello)
            assert client.poll(10_000)
            client.recv()
            proxy.change = lambda data: data[:-1] + bytes([data[-1] ^ 1])
            client.send(m.encode(m.Started(this_process())))
            for _ in range(1000):
                if len(proxy.said) > 1:
                    break
                threading.Event().wait(0.01)
            proxy.change = bytes
            assert not coordinator.nodes["worker:0"].started
            client.send(hello)
            assert client.poll(10_000)


NESTED = b"\x92\xa3Bye" + b"\x91" * 100_000 + b"\x90"


@pytest.mark.parametrize("pid", [0, -1, 1 << 31, 1 << 40, threading.get_native_id()])
def test_hello_of_a_process_that_is_none(coordinator, pid):
    with agent(coordinator) as a:
        me = this_process()
        raw = msgspec.msgpack.encode(["AgentHello", "worker:1", "t", "here", [pid, me.started, me.machine]])
        with agent(coordinator, "worker:1", hello=False) as b:
            b.socket.send(raw)
            serves(a)


@pytest.mark.parametrize(
    "body",
    [
        NESTED,
        msgspec.msgpack.encode(["Ended", ["NodeFailed", "x" * 1_000_000, "n", "h"], 0, 0]),
        msgspec.msgpack.encode(["Demand", "x" * 1000, 0, True]),
        msgspec.msgpack.encode(["Demand", "x", -2, True]),
        b"\x94\xa6Demand\xa1\xff\x00\xc2",
        msgspec.msgpack.encode(["ClaimPartition", -1, "k/0", 1]),
        msgspec.msgpack.encode(["ClaimPartition", 1, "k" * 10_000, 1]),
        msgspec.msgpack.encode(["Beat", -1, 0, 0, 0, 0, False]),
    ],
    ids=lambda body: repr(body[:14]),
)
def test_messages_out_of_bounds(coordinator, body):
    with agent(coordinator) as a:
        a.socket.send(body)
        serves(a)
        assert coordinator.nodes["worker:0"].garbled
        assert coordinator.nodes["worker:0"].demands == {}
    assert coordinator.failure is None


def test_any_message_of_a_node(coordinator):
    """Well typed or mutated, in any order: the coordinator serves the others. It may take the node for failed."""
    with agent(coordinator, "worker:1") as a:
        with agent(coordinator) as b:

            @hypothesis.settings(attack.LIVE, max_examples=150)
            @hypothesis.given(st.data())
            def tries(data):
                message = data.draw(attack.messages_of(m.FromAgent))
                body = m.encode(message)
                b.socket.send(data.draw(attack.mutated(body)) if data.draw(st.booleans()) else body)

            tries()
        serves(a)
    assert coordinator._thread.is_alive()
    coordinator._members.failures.clear()


def test_nobody_speaks_for_a_node_without_its_token(coordinator):
    with agent(coordinator, token="right") as a, agent(coordinator, "worker:1") as b:
        coordinator.expect({"worker:0": "right", "worker:1": "t"})
        with agent(coordinator, "worker:0", "wrong", hello=False) as c:
            c.send(m.Ended(m.Failure("NodeFailed", "I am not it", "worker:0", "here"), 0))  # before a hello
            c.send(m.AgentHello("worker:0", "wrong", "here", this_process()))
            assert isinstance(c.receive(), m.Stop)
        # A node of the cluster that speaks for another, even with its token, is not heard.
        b.send(m.AgentHello("worker:0", "right", "here", this_process()))
        b.send(m.FeedTerminated(True))
        serves(b)
        serves(a)
        assert not coordinator.nodes["worker:0"].terminated
        assert coordinator.nodes["worker:1"].terminated


def test_what_a_node_can_make_grow_is_bounded(coordinator, monkeypatch):
    monkeypatch.setattr(membership, "MOST_NODES", 5)
    monkeypatch.setattr(coordinator_module, "MOST_FEEDS", 5)
    monkeypatch.setattr(task_news, "MOST_UNFIT", 5)
    monkeypatch.setattr("tfos_fast.cluster.coordinator.ledger.MOST_PARTITIONS", 5)
    monkeypatch.setattr("tfos_fast.cluster.coordinator.progress.MOST_LOST", 5)
    before = len(os.listdir("/proc/self/fd"))
    with agent(coordinator) as a, contextlib.ExitStack() as others:
        for i in range(20):
            a.send(m.Ack(i, 0))
            a.send(m.Demand(f"feed{i}", 0, True))
            a.send(m.Unfit(f"job{i}", "SchemaMismatch", "a row"))
            a.send(m.Lost(0, {f"j/{i}": (0, 1)}, {}))
            a.send(m.ClaimPartition(i, f"j/{i}", 1))
        answers = [type(a.receive()) for _ in range(20)]
        node = coordinator.nodes["worker:0"]
        assert answers == [m.ClaimGranted] * 5 + [m.ClaimRefused] * 15
        assert (len(node.acks), len(node.demands)) == (0, 5)
        assert len(node.losing.frontier) == 6
        assert list(coordinator.unfit) == [f"job{i}" for i in range(15, 20)]  # the newest
        for i in range(20):  # one after the other takes the place of the same node
            others.enter_context(agent(coordinator, "worker:1", f"token{i}"))
        assert len(coordinator._local) == 2
        for i in range(20):
            others.enter_context(agent(coordinator, f"worker:{i + 2}", hello=False)).send(
                m.AgentHello(f"worker:{i + 2}", "t", "here", this_process())
            )
        # With the next token it has a place already; the last answer tells that all before were handled.
        others.enter_context(agent(coordinator, "worker:1", "last"))
        assert len(coordinator.nodes) <= 5
    assert len(os.listdir("/proc/self/fd")) < before + 250


def test_failures_that_a_node_tells_are_bounded(monkeypatch):
    monkeypatch.setattr(membership, "MOST_OF_ONE", 5)
    monkeypatch.setattr(membership, "MOST_TEXT", 250)
    coordinator = Coordinator("127.0.0.1", "127.0.0.1")
    try:
        with agent(coordinator) as a, agent(coordinator, "worker:1") as b:
            for it, name in ((a, "worker:0"), (b, "worker:1")):
                for _ in range(20):
                    it.send(m.Ended(m.Failure("NodeFailed", "why", name, "here", "t" * 100), 0))
                serves(it)
        assert [failure.node for failure in coordinator.failures] == ["worker:0"] * 5 + ["worker:1"] * 5
        assert [len(failure.remote_traceback) for failure in coordinator.failures] == [100] * 3 + [0] * 7
    finally:
        coordinator.close()


def test_nothing_is_unpickled(coordinator, tmp_path: Path):
    marker = tmp_path / "it ran"
    with agent(coordinator) as a, agent(coordinator, "worker:1") as b:
        for body in attack.bombs(marker, m.FromAgent):
            b.socket.send(body)
            b.socket.send_multipart([body, body])
        serves(a)
    attack.say(coordinator.keys.endpoint, next(attack.bombs(marker, m.FromAgent)))
    assert not marker.exists()
    with attack.Bomb(marker).__reduce__()[0](*attack.Bomb(marker).__reduce__()[1]):
        assert marker.exists()  # as it would be


def test_a_flood_by_a_node_does_not_stop_the_others(coordinator):
    with agent(coordinator) as a, agent(coordinator, "worker:1") as b:
        stop = threading.Event()

        def flood():
            while not stop.is_set():
                with contextlib.suppress(zmq.Again):
                    b.socket.send(NESTED[:1000], zmq.NOBLOCK)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            for _ in range(20):
                serves(a)
        finally:
            stop.set()
            thread.join()


def test_the_keys_are_not_in_representations(coordinator):
    assert coordinator.keys.client_secret.decode() not in repr(coordinator.keys)


def test_the_coordinator_listens_where_it_was_told_to(coordinator):
    port = attack.place(coordinator.keys.endpoint)[1]
    connections = getattr(psutil.Process(), "net_connections", None) or psutil.Process().connections  # psutil 6; 5
    listening = [c.laddr for c in connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert [address.ip for address in listening if address.port == port] == ["127.0.0.1"]
    for address in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)} - {"127.0.0.1"}:
        if not address.startswith("127."):
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((address, port), 5)
