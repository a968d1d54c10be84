"""The driver's side of a relay: an entrance for agents that is elsewhere. See `tfos_fast.cluster.coordinator.relay`."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from tfos_fast.channel.transport import curve
from tfos_fast.cluster.coordinator.relay import RelayTask
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol.failures import check_started, job_exception
from tfos_fast.cluster.protocol.keys import HEARTBEAT, HELD, MAX_MESSAGE, SILENCE, ClusterKeys
from tfos_fast.cluster.spark.engine import Engine
from tfos_fast.cluster.spark.jobs import SparkJob
from tfos_fast.errors import ClusterTimeout, CoordinatorUnreachable

log = logging.getLogger("tfos_fast.cluster")

PATIENCE = 5.0  # seconds to wait for the relay's handshake


class RelayedEntrance:
    """What `Entrance` is for whoever uses it, but this process connects and nobody connects to it.

    Parameters
    ----------
    relay : RelayReady
    client, operator : (bytes, bytes)
        Public and secret CURVE keys of the agents, and of this process.

    Raises
    ------
    CoordinatorUnreachable
        The relay cannot be reached from here either.
    """

    def __init__(self, relay: h.RelayReady, client: tuple[bytes, bytes], operator: tuple[bytes, bytes]) -> None:
        self.lost = ""
        self.keys = ClusterKeys(relay.agents, relay.server_public.encode(), *client)
        self._relay = relay
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 500
        curve.as_client(self.socket, relay.server_public.encode(), *operator)
        self.socket.heartbeat_ivl = int(HEARTBEAT * 1000)
        self.socket.heartbeat_timeout = int(SILENCE * 1000)
        self.socket.maxmsgsize = MAX_MESSAGE
        self.socket.reconnect_ivl = -1  # what was on its way when it broke is lost, so nobody could go on
        self.socket.sndhwm = self.socket.rcvhwm = HELD
        self.asks = self.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED)
        self.socket.connect(relay.operator)
        self._shake_hands()

    def _shake_hands(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while (left := deadline - time.monotonic()) > 0 and self.asks.poll(int(1000 * left) + 1):
            if recv_monitor_message(self.asks)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return
            break
        self.close()
        raise CoordinatorUnreachable(
            f"executors cannot reach this program, and it cannot reach the relay on {self._relay.where} at {self._relay.operator}: "
            "let one of them connect to the other, by server_host and server_port (TFOS_SERVER_HOST, TFOS_SERVER_PORT), or by "
            "opening the executors' ports to this host"
        )

    @property
    def closed(self) -> bool:
        return self._context.closed

    def answer(self) -> None:
        """Look what has become of the connection."""
        while self.asks.poll(0):
            recv_monitor_message(self.asks)
            self.lost = f"the connection to the relay on {self._relay.where} is gone, and with it every node"

    def send(self, peer: bytes, body: bytes) -> None:
        """To one peer; who is not connected now is silently skipped."""
        with contextlib.suppress(zmq.Again):
            self.socket.send_multipart([peer, body], zmq.NOBLOCK)

    def close(self) -> None:
        self.socket.disable_monitor()
        self.asks.close(0)
        self.socket.close()
        self._context.term()


def hire(engine: Engine, towards: tuple[str, int], ports: Sequence[int], log_level: str, timeout: float) -> RelayedEntrance:
    """Start a relay on one of the executors and connect to it.

    Parameters
    ----------
    engine : Engine
    towards : (host, port)
        Where this process would be reached.
    ports : sequence of int
        For agents; any, if it has a 0.
    log_level : str
    timeout : float
        Seconds to wait for Spark to run the task that starts it.

    Raises
    ------
    CoordinatorUnreachable, ClusterTimeout, PortUnavailable
    """
    client, operator = zmq.curve_keypair(), zmq.curve_keypair()
    task = RelayTask(client[0].decode(), operator[0].decode(), towards, tuple(ports), log_level)
    changed = threading.Condition()
    job = SparkJob(engine, "start the relay", lambda: engine.run(task, range(1)), changed)
    deadline = time.monotonic() + timeout
    try:
        with changed:
            while not job.done:
                if (left := deadline - time.monotonic()) <= 0:
                    raise ClusterTimeout(f"the driver waits for Spark to run the task that starts its relay (waited {timeout:g} s)")
                changed.wait(min(0.5, left))
    except BaseException:
        job.cancel()
        raise
    if job.error is not None:
        raise job_exception(job.error)
    relay = msgspec.json.decode(job.result[0], type=h.RelayReady)
    check_started(relay)
    log.info("executors do not reach this program: its coordinator is reached by a relay on %s", relay.where)
    return RelayedEntrance(relay, client, operator)
