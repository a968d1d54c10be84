"""The relay between agents and a driver that they cannot reach: both ways, by whom, and its end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
import zmq

from tfos_fast.cluster.coordinator.relay import Relay
from tfos_fast.cluster.coordinator.relay_client import RelayedEntrance
from tfos_fast.cluster.driver.rendezvous import rendezvous
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol.identity import this_process
from tfos_fast.errors import CoordinatorUnreachable, RoleError


class Here:
    """A relay in a thread, the keys of both sides, and a process that stands for its executor."""

    def __init__(self):
        self.client, self.operator = zmq.curve_keypair(), zmq.curve_keypair()
        self.executor = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        config = h.RelayConfig(
            self.client[0].decode(), self.operator[0].decode(), this_process(self.executor.pid),
            "127.0.0.1", ("127.0.0.1", 1), (0,), "INFO",
        )  # fmt: skip
        self.relay = Relay(config)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        self.context = zmq.Context()

    def _run(self):
        self.relay.run()
        self.relay.close()

    def driver(self, operator=None):
        return RelayedEntrance(self.relay.ready, self.client, operator or self.operator)

    def agent(self, name, keys=None, where=""):
        socket = self.context.socket(zmq.DEALER)
        socket.linger = 0
        socket.routing_id = name
        socket.curve_serverkey = self.relay.ready.server_public.encode()
        socket.curve_publickey, socket.curve_secretkey = keys or self.client
        socket.connect(where or self.relay.ready.agents)
        return socket

    def close(self):
        self.executor.kill()
        self.executor.wait()
        self.executor.stdin.close()
        self.thread.join(10)
        self.context.destroy(0)


@pytest.fixture
def here():
    it = Here()
    yield it
    it.close()
    assert not it.thread.is_alive()


def receive(socket, seconds=10):
    assert socket.poll(1000 * seconds)
    return socket.recv_multipart()


def test_messages_pass_both_ways_and_keep_their_peers(here):
    driver = here.driver()
    agents = {name: here.agent(name) for name in (b"a", b"b")}
    for name, agent in agents.items():
        agent.send(b"from " + name)
    assert sorted(receive(driver.socket) for _ in agents) == [[b"a", b"from a"], [b"b", b"from b"]]
    driver.send(b"b", b"to b")
    driver.send(b"nobody", b"to nobody")
    driver.send(b"a", b"to a")
    assert (receive(agents[b"a"]), receive(agents[b"b"])) == ([b"to a"], [b"to b"])
    driver.close()
    here.thread.join(10)  # the driver is gone, and so is its relay
    assert not here.thread.is_alive()


def test_nobody_else_gets_in(here):
    driver = here.driver()
    stranger = here.agent(b"stranger", zmq.curve_keypair())
    usurper = here.agent(b"usurper", where=here.relay.ready.operator)  # an agent's key does not open the driver's door
    other = here.agent(b"other", here.operator)  # nor the driver's that of agents
    for one in (stranger, usurper, other):
        one.send(b"hello")
    agent = here.agent(b"a")
    agent.send(b"from a")
    assert receive(driver.socket) == [b"a", b"from a"]
    driver.send(b"usurper", b"for the agent of this name")
    assert not driver.socket.poll(300)
    assert not any(one.poll(0) for one in (stranger, usurper, other))
    with pytest.raises(CoordinatorUnreachable, match="cannot reach the relay"):
        here.driver(zmq.curve_keypair())
    for one in (stranger, usurper, other):  # their ends are no end of the driver's
        one.close()
    agent.send(b"again")
    assert receive(driver.socket) == [b"a", b"again"]
    driver.close()


def test_the_end_of_its_executor_is_its_end(here):
    driver = here.driver()
    here.executor.kill()
    here.thread.join(10)
    assert not here.thread.is_alive()
    deadline = time.monotonic() + 10
    while not driver.lost and time.monotonic() < deadline:
        driver.asks.poll(100)
        driver.answer()
    assert "connection to the relay" in driver.lost
    driver.close()


@pytest.mark.parametrize("told", [True, None])
def test_a_ps_on_the_driver_has_no_use_for_one(told, monkeypatch):
    monkeypatch.setenv("TFOS_RELAY", "1")
    with pytest.raises(RoleError, match="driver_ps_nodes=True"):
        rendezvous(None, None, None, None, told, 1.0, "WARNING", driver_nodes=True)
