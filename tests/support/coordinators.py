"""The agent's side of the coordinator's protocol, driven by hand."""

from __future__ import annotations

from contextlib import contextmanager, suppress

import zmq
from zmq.utils.monitor import recv_monitor_message

from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.identity import this_process

WAIT = 10.0


class Agent:
    """The agent's side of the protocol, driven by hand."""

    def __init__(self, coordinator, name="worker:0", token="t", *, public=None, secret=None, hello=True, process=None):
        keys = coordinator.keys
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        if public != b"":
            self.socket.curve_serverkey = keys.server_public
            self.socket.curve_publickey = public or keys.client_public
            self.socket.curve_secretkey = secret or keys.client_secret
        self.socket.routing_id = f"{name}/{token}".encode()
        self.monitor = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        )
        self.socket.connect(keys.endpoint)
        if hello:
            self.send(m.AgentHello(name, token, "here", process or this_process()))
            assert isinstance(self.receive(), m.AgentWelcome)

    def send(self, message):
        self.socket.send(m.encode(message))

    def try_to_send(self, message):
        """A refused connection may be gone already, and then a message would wait for another one for ever."""
        with suppress(zmq.Again):
            self.socket.send(m.encode(message), zmq.NOBLOCK)

    def receive(self):
        assert self.socket.poll(int(WAIT * 1000)), "nothing came"
        return m.decode_to_agent(self.socket.recv())

    def handshake(self):
        assert self.monitor.poll(int(WAIT * 1000)), "no handshake, no refusal"
        return recv_monitor_message(self.monitor)["event"]

    def close(self):
        self.socket.disable_monitor()
        self.context.destroy(linger=0)


@contextmanager
def agent(*args, **kwargs):
    it = Agent(*args, **kwargs)
    try:
        yield it
    finally:
        it.close()
