"""Where agents connect to the driver: a CURVE socket, and who may enter. Knows nothing of what is said."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import zmq
from zmq.utils import z85

from tfos_fast.cluster.ports import unavailable

HEARTBEAT = 2.0  # seconds
SILENCE = 8.0  # seconds after which a connection without an answer is closed
HANDSHAKE = 10.0  # seconds after which one that has not shown the key is closed
MAX_MESSAGE = 2 << 20  # bytes; a long traceback is the largest thing that an agent says
_BACKLOG = 4096  # all nodes come at once
_AT_ONCE = 1000  # then the other sources are looked at


@dataclass(frozen=True)
class Keys:
    """What an agent needs to connect: sent only inside Spark's closures."""

    endpoint: str
    server_public: bytes
    client_public: bytes
    client_secret: bytes = field(repr=False)


class Entrance:
    """To be used by one thread, but for making it.

    Parameters
    ----------
    bind_address : str
        Numeric address to listen on; ``"0.0.0.0"`` for all.
    advertise : str
        Host name or address at which the executors reach the driver.
    ports : sequence of int
        To try in order; 0 is any free one.

    Attributes
    ----------
    keys : Keys
    socket, asks : zmq.Socket
        To be polled: messages of agents, and libzmq's questions who may enter (see :meth:`answer`).
    """

    def __init__(self, bind_address: str, advertise: str, ports: Sequence[int]) -> None:
        self._context = zmq.Context()
        server_public, server_secret = zmq.curve_keypair()
        client_public, client_secret = zmq.curve_keypair()
        self._key = z85.decode(client_public)
        # The address at which libzmq asks who may enter; it is per context, and so per cluster.
        self.asks = self._context.socket(zmq.REP)
        self.asks.linger = 0
        self.asks.bind("inproc://zeromq.zap.01")
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.linger = 500
        self.socket.curve_server = True
        self.socket.curve_secretkey = server_secret
        self.socket.zap_domain = b"tfos_fast"
        self.socket.router_handover = True  # a node that reconnects takes its name over
        self.socket.heartbeat_ivl = int(HEARTBEAT * 1000)
        self.socket.heartbeat_timeout = int(SILENCE * 1000)
        self.socket.maxmsgsize = MAX_MESSAGE
        self.socket.handshake_ivl = int(HANDSHAKE * 1000)
        self.socket.backlog = _BACKLOG
        try:
            port = self._bind(bind_address, ports)
        except OSError:  # zmq.ZMQError is one
            self.socket.linger = 0
            self.close()
            raise
        self.keys = Keys(f"tcp://{advertise}:{port}", server_public, client_public, client_secret)

    def _bind(self, address: str, ports: Sequence[int]) -> int:
        for port in ports:
            try:
                self.socket.bind(f"tcp://{address}:{port or '*'}")
                endpoint: Any = self.socket.last_endpoint
                return int(endpoint.rpartition(b":")[2])
            except zmq.ZMQError as error:
                if error.errno != errno.EADDRINUSE or not port:
                    raise
        raise unavailable(address, ports, "server_port, or TFOS_SERVER_PORT")

    @property
    def closed(self) -> bool:
        return self._context.closed

    def answer(self) -> None:
        """Answer libzmq's questions (RFC 27) whether a CURVE key may enter."""
        for _ in range(_AT_ONCE):
            try:
                version, request, _domain, _address, _identity, mechanism, *credentials = self.asks.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            good = mechanism == b"CURVE" and credentials == [self._key]
            status = (b"200", b"OK") if good else (b"400", b"this key is not of this cluster")
            self.asks.send_multipart([version, request, *status, b"agent", b""])

    def send(self, peer: bytes, body: bytes) -> None:
        """To one peer; who is not connected now is silently skipped."""
        self.socket.send_multipart([peer, body], zmq.NOBLOCK)

    def close(self) -> None:
        self.asks.close(0)
        self.socket.close()
        self._context.term()
