"""Simulated nodes for ``benchmarks.scale``: the sockets and messages of agents, many in a process, and nothing behind."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import msgspec
import zmq

from tfos_fast.channel.transport import curve
from tfos_fast.cluster.protocol import messages as m

BEAT_S = 1.0


class Setting(msgspec.Struct):
    """What such a process is told on its standard input, as its first line."""

    endpoint: str
    server_public: str
    client_public: str
    client_secret: str
    names: list[str]


class Nodes:
    """Agents as far as the coordinator sees them; of another machine, so that it hears of their ends over the network only."""

    def __init__(self, setting: Setting) -> None:
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, len(setting.names) + 10)
        self._poller = zmq.Poller()
        self._poller.register(sys.stdin.fileno(), zmq.POLLIN)
        self._names: dict[Any, str] = {}
        self._asked: dict[Any, int] = {}
        self._storm_ends = 0.0
        self._answers = 0
        self._left = len(setting.names)
        for name in setting.names:
            socket = self._context.socket(zmq.DEALER)
            socket.linger = 1000
            curve.as_client(socket, setting.server_public.encode(), setting.client_public.encode(), setting.client_secret.encode())
            socket.routing_id = m.routing_id(name, "token")
            socket.heartbeat_ivl = 2000
            socket.heartbeat_timeout = 10000
            socket.connect(setting.endpoint)
            self._names[socket] = name
            self._asked[socket] = 0
            self._poller.register(socket, zmq.POLLIN)
            self._send(socket, m.AgentHello(name, "token", "simulated", m.Process(os.getpid(), 1, "another machine")))

    def run(self) -> None:
        """Until every node was told to stop."""
        beats = {socket: time.monotonic() + BEAT_S * i / len(self._names) for i, socket in enumerate(self._names)}
        while self._left:
            now = time.monotonic()
            for socket, due in beats.items():
                if due <= now:
                    beats[socket] = due + BEAT_S
                    self._send(socket, m.Beat(1, 1000, 1000, 2, 0, True))
            if self._storm_ends and now > self._storm_ends:
                self._storm_ends = 0.0
                print(self._answers, flush=True)
            wait = max(0, int((min(beats.values()) - time.monotonic()) * 1000))
            for source, _ in self._poller.poll(min(wait, 20) + 1):
                if source == sys.stdin.fileno():
                    self._storm(float(sys.stdin.readline()))
                else:
                    self._receive(source)

    def _storm(self, seconds: float) -> None:
        """Every node opens partition after partition, one at a time, as fast as it is answered."""
        self._answers = 0
        self._storm_ends = time.monotonic() + seconds
        for socket in self._names:
            self._open(socket)

    def _open(self, socket: Any) -> None:
        self._asked[socket] += 1
        number = self._asked[socket]
        self._send(socket, m.ClaimPartition(number, f"feed1/{self._names[socket]}-{number}", number))

    def _receive(self, socket: Any) -> None:
        while True:
            try:
                message = m.decode_to_agent(socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            match message:
                case m.ClaimGranted():
                    self._answers += 1
                    if self._storm_ends:
                        self._open(socket)
                case m.EndEpoch():
                    self._send(socket, m.Ack(message.request, 1000))
                case m.Stop():
                    self._left -= 1
                    self._send(socket, m.AgentBye())

    def _send(self, socket: Any, message: m.ControlMessage) -> None:
        socket.send(m.encode(message), zmq.NOBLOCK)

    def close(self) -> None:
        self._context.destroy(linger=1000)


def main() -> None:
    setting = msgspec.json.decode(sys.stdin.readline(), type=Setting)
    nodes = Nodes(setting)
    nodes.run()
    nodes.close()


if __name__ == "__main__":
    main()
