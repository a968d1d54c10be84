"""The agent's link to the driver: an authenticated socket, what is told again after a reconnect, and when the driver is gone."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from tfos_fast.channel.broker.broker import Broker
from tfos_fast.channel.transport import curve
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol import messages as m

log = logging.getLogger("tfos_fast.agent")

DRIVER_GRACE = 5.0  # seconds without a connection to the driver, after which it is taken for dead
FIRST_CONTACT = 30.0


def _socket(context: zmq.Context[Any], config: h.AgentConfig, who: str = "") -> zmq.Socket[Any]:
    """The node's, or that of the agent's parent; not connected yet."""
    socket: zmq.Socket[Any] = context.socket(zmq.DEALER)
    curve.as_client(socket, config.server_public.encode(), config.client_public.encode(), config.client_secret.encode())
    socket.routing_id = m.routing_id(config.name, config.token) + who.encode()
    return socket


def tell_end(config: h.AgentConfig, status: int) -> None:
    """Tell the driver in the agent's name that its process has ended, and with which status. Takes 3 s where nobody listens."""
    with zmq.Context() as context, _socket(context, config, m.PARENT) as socket:
        socket.linger = 3000
        socket.connect(config.endpoint)
        socket.send(m.encode(m.Died(config.name, config.token, status)))


class DriverLink:
    """A node's socket to the coordinator, served by the broker's loop.

    Parameters
    ----------
    config : AgentConfig
    broker : Broker
    hello : Hello
        Said first at each connection; then come the states, the ``greetings``, and the questions without an answer.
    greetings : callable
        Gives messages that are to be sent at each connection.
    on_message : callable
        Called for each message but answers to questions.
    on_end : callable
        Called with the reason when the agent must end.
    """

    def __init__(
        self,
        config: h.AgentConfig,
        broker: Broker,
        hello: m.AgentHello,
        greetings: Callable[[], Iterable[m.ControlMessage]],
        on_message: Callable[[m.ToAgent], None],
        on_end: Callable[[str], None],
    ) -> None:
        self.config = config
        self.name = config.name
        self.broker = broker
        self._hello = hello
        self._greetings = greetings
        self._on_message = on_message
        self._on_end = on_end
        self._states: list[m.ControlMessage] = []
        self._pending: dict[int, tuple[str, int, Callable[..., None]]] = {}
        self._requests = 0
        self._driver_deadline: float | None = time.monotonic() + FIRST_CONTACT
        self._context = zmq.Context()
        self._socket = _socket(self._context, config)
        self._socket.linger = 1000
        self._socket.heartbeat_ivl = 2000
        self._socket.heartbeat_timeout = 10000
        self._socket.reconnect_ivl = 200
        self._socket.reconnect_ivl_max = 2000
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        )
        self.broker.watch(self._monitor, self._on_monitor)
        self.broker.watch(self._socket, self._on_messages)
        self._socket.connect(self.config.endpoint)

    def _on_monitor(self) -> None:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._driver_deadline = None
                self._greet()
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._on_end("the coordinator refused the keys")
            elif event == zmq.EVENT_CONNECT_RETRIED:
                # It listened before any agent was spawned: where nobody listens now, the reservation was given up.
                if self._driver_deadline is not None:
                    self._driver_deadline = min(self._driver_deadline, time.monotonic() + DRIVER_GRACE)
            elif self._driver_deadline is None:
                log.warning("%s lost its connection to the driver", self.name)
                self._driver_deadline = time.monotonic() + DRIVER_GRACE

    def _greet(self) -> None:
        self.send(self._hello)
        for state in self._states:
            self.send(state)
        for greeting in self._greetings():
            self.send(greeting)
        for request, (key, attempt, _) in self._pending.items():
            self.send(m.ClaimPartition(request, key, attempt))

    def send(self, message: m.ControlMessage) -> None:
        # HWM reached means that the driver has been away for long; the deadline ends this agent soon.
        with contextlib.suppress(zmq.Again):
            self._socket.send(m.encode(message), zmq.NOBLOCK)

    def state(self, message: m.ControlMessage) -> None:
        """Send what the coordinator must know, again after each reconnect."""
        self._states.append(message)
        self.send(message)

    def begin_anew(self) -> None:
        """What was told of the trainer's state is not true any more."""
        self._states.clear()

    def open(self, key: str, attempt: int, reply: Callable[..., None]) -> None:
        """Ask the ledger for a partition; ``reply`` gets the rows to skip, or ``error``."""
        self._requests += 1
        self._pending[self._requests] = (key, attempt, reply)
        self.send(m.ClaimPartition(self._requests, key, attempt))

    def _on_messages(self) -> None:
        while True:
            try:
                message = m.decode_to_agent(self._socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            match message:
                case m.ClaimGranted():
                    # An answer that comes twice (it was asked again after a reconnect) finds nobody waiting.
                    if waiting := self._pending.pop(message.request, None):
                        waiting[2](message.skip, message.proof, message.stop)
                case m.ClaimRefused():
                    if waiting := self._pending.pop(message.request, None):
                        waiting[2](error=message.text, kind=message.kind)
                case _:
                    self._on_message(message)
            self.broker.flush()

    def tick(self) -> None:
        """End the agent when there has been no connection for too long."""
        if self._driver_deadline is not None and time.monotonic() > self._driver_deadline:
            self._on_end("the driver is gone")

    def close(self, bye: m.AgentBye | None = None) -> None:
        """Say goodbye, if there is something to say."""
        if bye is not None:
            self.send(bye)
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close()
        self._context.term()
