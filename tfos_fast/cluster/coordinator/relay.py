"""The relay: where agents connect when executors cannot reach the driver. A process on an executor's host.

The coordinator stays in the driver, which connects to the relay (``python -m tfos_fast.cluster.coordinator.relay``). What agents
say and what the driver answers is passed on as it is. Both sides authenticate by CURVE, each with a key of its own, so that no
agent can speak for the driver. It ends when the driver's connection ends, or the executor.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import zmq
from zmq.utils import z85

from tfos_fast.channel.host.descriptors import Descriptors, make_room
from tfos_fast.channel.host.processes import open_pidfd
from tfos_fast.cluster.coordinator.endpoint import DOMAIN, answer, bind, door, guard, questions
from tfos_fast.cluster.host.addresses import listen_at
from tfos_fast.cluster.host.detach import detach
from tfos_fast.cluster.launch.reserve_task import spawn
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol.identity import address_towards, host_name, this_process
from tfos_fast.cluster.protocol.keys import HELD
from tfos_fast.cluster.spark import probe
from tfos_fast.cluster.spark.task import executor_pid
from tfos_fast.errors import TfosError

log = logging.getLogger("tfos_fast.relay")

OPERATOR = b"tfos_fast-operator"
FIRST_CONTACT = 60.0  # seconds to wait for the driver
LOOK = 200  # milliseconds after which it is looked whether the driver is still there
_AT_ONCE = 1000


@dataclass(frozen=True)
class RelayTask:
    """The Spark task that spawns the relay; yields its answer (`messages.RelayReady`)."""

    client_public: str
    operator_public: str
    towards: tuple[str, int]
    ports: tuple[int, ...]
    log_level: str

    def __call__(self, _: int, __: Iterable[object]) -> Iterator[bytes]:
        config = h.RelayConfig(
            self.client_public,
            self.operator_public,
            this_process(executor_pid()),
            probe.known_as(),
            self.towards,
            self.ports,
            self.log_level,
        )
        ready, kind, text = spawn("tfos_fast.cluster.coordinator.relay", config, "the relay")
        yield ready or msgspec.json.encode(h.RelayReady(kind=kind, text=text))


class Relay:
    """Both doors and what goes between them.

    Parameters
    ----------
    config : RelayConfig
    """

    def __init__(self, config: h.RelayConfig) -> None:
        self._may = {
            DOMAIN: z85.decode(config.client_public.encode()),
            OPERATOR: z85.decode(config.operator_public.encode()),
        }
        public, secret = zmq.curve_keypair()
        self._context = zmq.Context()
        self._asks = questions(self._context)
        self._agents = door(self._context, secret)
        self._operator = self._context.socket(zmq.DEALER)
        guard(self._operator, secret, OPERATOR)
        self._operator.linger = 0
        self._operator.sndhwm = self._operator.rcvhwm = HELD
        self._executor = open_pidfd(config.executor.pid, config.executor.started)
        host = self._address(config)
        agents = self._bind(self._agents, host, config.ports)
        operator = self._bind(self._operator, host, (0,))
        self.ready = h.RelayReady(
            f"tcp://{host}:{agents}", f"tcp://{host}:{operator}", public.decode(), f"{host_name()} (process {os.getpid()})"
        )

    @staticmethod
    def _address(config: h.RelayConfig) -> str:
        """By which others reach this host: as executors know each other, else on the network that leads to the driver."""
        if config.host:
            return config.host
        with contextlib.suppress(OSError):
            return address_towards(*config.towards)
        return host_name()

    @staticmethod
    def _bind(which: zmq.Socket[Any], host: str, ports: Iterable[int]) -> int:
        return listen_at(host, f"the address of {host_name()}", lambda address: bind(which, address, tuple(ports)))

    def run(self) -> None:
        """Relay until the driver or the executor is gone."""
        poller = zmq.Poller()
        for source in (self._asks, self._agents, self._operator):
            poller.register(source, zmq.POLLIN)
        if self._executor is not None:
            poller.register(self._executor, zmq.POLLIN)
        met, deadline, looked = False, time.monotonic() + FIRST_CONTACT, 0.0
        descriptors = Descriptors("the relay", "no agent can connect")
        while True:
            events = dict(poller.poll(LOOK))
            if self._executor is None or self._executor in events:
                log.info("the relay ends: its executor is gone")
                return
            if self._asks in events:
                answer(self._asks, self._may)
            self._pass(self._operator, self._agents)
            if time.monotonic() >= looked + LOOK / 1000:
                looked = time.monotonic()
                descriptors.look()
            # Only who has shown the driver's key can be sent to. What was on its way when it left may be lost, so nobody could go
            # on: agents end when they miss this relay.
            there = bool(self._operator.poll(0, zmq.POLLOUT))
            met = met or there
            if not there and (met or time.monotonic() > deadline):
                log.info("the relay ends: the driver %s", "is gone" if met else "never came")
                return
            if there:
                self._pass(self._agents, self._operator)

    @staticmethod
    def _pass(source: zmq.Socket[Any], target: zmq.Socket[Any]) -> None:
        for _ in range(_AT_ONCE):
            try:
                message = source.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(message) == 2:
                # Who does not take it has been away for longer than heartbeats allow.
                with contextlib.suppress(zmq.ZMQError):
                    target.send_multipart(message, zmq.NOBLOCK)

    def close(self) -> None:
        """Close the sockets."""
        for each in (self._asks, self._operator, self._agents):
            each.close(0)
        self._context.term()


def main() -> None:
    """Detach, read the configuration from standard input, answer on standard output, relay."""
    tell = detach()
    config = msgspec.json.decode(sys.stdin.buffer.read(), type=h.RelayConfig)
    logging.basicConfig(level=config.log_level, format="%(asctime)s %(levelname)s tfos_fast relay %(message)s", stream=sys.stderr)
    make_room()
    try:
        relay = Relay(config)
    except (TfosError, OSError) as error:
        kind = type(error).__name__ if isinstance(error, TfosError) else "CoordinatorUnreachable"
        text = "".join(traceback.format_exception_only(error)).strip()
        tell(h.RelayReady(kind=kind, text=f"the relay on {host_name()} could not start: {text}"))
        return
    tell(relay.ready)
    try:
        relay.run()
    finally:
        relay.close()


if __name__ == "__main__":
    main()
