"""How long nodes that go in step wait for their agreement: a real coordinator, and nodes that are sockets of this process.

``latency(nodes)`` is for whoever prints it: ``python -m benchmarks.agreement 10 100 1000``. The simulated nodes share one thread,
whose own work is part of each figure, so a real cluster of as many nodes is faster.
"""

from __future__ import annotations

import statistics
import sys
import time

import zmq

from tfos_fast.channel.protocol.lockstep import Pace
from tfos_fast.channel.transport import curve
from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.keys import ClusterKeys

JOB = "agreement/0"


class Nodes:
    """So many agents as the coordinator sees them, each with a partition open."""

    def __init__(self, keys: ClusterKeys, count: int) -> None:
        self._context = zmq.Context(io_threads=2)
        self._context.max_sockets = count + 16
        self._poller = zmq.Poller()
        self.sockets = [self._connect(keys, number) for number in range(count)]

    def _connect(self, keys: ClusterKeys, number: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        curve.as_client(socket, keys.server_public, keys.client_public, keys.client_secret)
        socket.routing_id = f"worker:{number}/t".encode()
        socket.connect(keys.endpoint)
        self._poller.register(socket, zmq.POLLIN)
        return socket

    def tell(self, make: object) -> None:
        """Every node sends ``make(number)``."""
        for number, socket in enumerate(self.sockets):
            socket.send(m.encode(make(number)))  # type: ignore[operator]

    def hear(self, kind: type, **fields: object) -> None:
        """Wait until every node has got such a message."""
        missing = set(self.sockets)
        while missing:
            ready = self._poller.poll(30_000)
            assert ready, f"{len(missing)} nodes got no {kind.__name__}"
            for socket, _ in ready:
                message = m.decode_to_agent(socket.recv())
                if isinstance(message, kind) and all(getattr(message, name) == value for name, value in fields.items()):
                    missing.discard(socket)

    def close(self) -> None:
        """Close the sockets."""
        self._context.destroy(linger=0)


def latency(nodes: int, rounds: int = 30) -> list[float]:
    """Seconds from the first node's word that it can do a step until the last node knows that all can, for each of some steps."""
    coordinator = Coordinator("127.0.0.1", "127.0.0.1")
    try:
        them = Nodes(coordinator.keys, nodes)
        try:
            elsewhere = m.Process(1, 1, "another machine")
            them.tell(lambda number: m.AgentHello(f"worker:{number}", "t", f"host{number}", elsewhere))
            them.hear(m.AgentWelcome)
            coordinator.begin_epoch(JOB)
            coordinator.count_partitions(nodes)
            them.tell(lambda number: m.Join(Pace("stop", 64)))
            them.tell(lambda number: m.ClaimPartition(1, f"{JOB}/{number}", 0))
            them.hear(m.ClaimGranted)
            seconds = []
            for step in range(1, rounds + 1):
                begin = time.perf_counter()
                them.tell(lambda number, step=step: m.StepsReady(0, step, 0))
                them.hear(m.StepsAgreed, steps=step)
                seconds.append(time.perf_counter() - begin)
            return seconds
        finally:
            them.close()
    finally:
        coordinator.close()


if __name__ == "__main__":
    for count in map(int, sys.argv[1:] or ["10", "100", "1000"]):
        samples = sorted(latency(count))
        print(
            f"{count} nodes: median {1e3 * statistics.median(samples):.2f} ms, p95 {1e3 * samples[int(0.95 * len(samples))]:.2f} ms"
        )
