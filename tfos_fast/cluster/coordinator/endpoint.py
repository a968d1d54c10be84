"""Where agents connect to the driver: a CURVE socket, and who may enter. Knows nothing of what is said."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Any

import zmq
from zmq.utils import z85

from tfos_fast.channel.transport import curve
from tfos_fast.cluster.host.ports import unavailable
from tfos_fast.cluster.protocol.keys import HEARTBEAT, MAX_MESSAGE, SILENCE, ClusterKeys

HANDSHAKE = 10.0  # seconds after which one that has not shown the key is closed
DOMAIN = b"tfos_fast"
_BACKLOG = 4096  # all nodes come at once
_AT_ONCE = 1000  # then the other sources are looked at


def questions(context: zmq.Context[Any]) -> zmq.Socket[Any]:
    """The address at which libzmq asks who may enter; it is per context, and so per cluster."""
    asks: zmq.Socket[Any] = context.socket(zmq.REP)
    asks.linger = 0
    asks.bind("inproc://zeromq.zap.01")
    return asks


def answer(asks: zmq.Socket[Any], may: Mapping[bytes, bytes]) -> None:
    """Answer libzmq's questions (RFC 27) whether a CURVE key may enter: the one of its socket's domain."""
    for _ in range(_AT_ONCE):
        try:
            version, request, domain, _address, _identity, mechanism, *credentials = asks.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        good = mechanism == b"CURVE" and credentials == [may.get(domain)]
        status = (b"200", b"OK") if good else (b"400", b"this key is not of this cluster")
        asks.send_multipart([version, request, *status, b"agent", b""])


def door(context: zmq.Context[Any], server_secret: bytes) -> zmq.Socket[Any]:
    """A ROUTER for agents, not bound yet."""
    socket: zmq.Socket[Any] = context.socket(zmq.ROUTER)
    socket.router_handover = True  # a node that reconnects takes its name over
    guard(socket, server_secret, DOMAIN)
    socket.linger = 500
    socket.backlog = _BACKLOG
    return socket


def guard(socket: zmq.Socket[Any], server_secret: bytes, domain: bytes) -> None:
    """Let only those in who have the key of this domain, and see when they are gone."""
    curve.as_server(socket, server_secret, domain)
    socket.heartbeat_ivl = int(HEARTBEAT * 1000)
    socket.heartbeat_timeout = int(SILENCE * 1000)
    socket.maxmsgsize = MAX_MESSAGE
    socket.handshake_ivl = int(HANDSHAKE * 1000)


def bind(socket: zmq.Socket[Any], address: str, ports: Sequence[int]) -> int:
    """Bind to the first port that can be had (0: any); its number.

    Raises
    ------
    PortUnavailable
    OSError
        The address is none of this host's.
    """
    for port in ports:
        try:
            socket.bind(f"tcp://{address}:{port or '*'}")
            endpoint: Any = socket.last_endpoint
            return int(endpoint.rpartition(b":")[2])
        except zmq.ZMQError as error:
            if error.errno != errno.EADDRINUSE or not port:
                raise OSError(error.errno, error.strerror, address) from error
    raise unavailable(address, ports, "server_port, or TFOS_SERVER_PORT")


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
    keys : ClusterKeys
    socket, asks : zmq.Socket
        To be polled: messages of agents, and libzmq's questions who may enter (see :meth:`answer`).
    lost : str
        Why no agent can be heard any more.
    """

    lost = ""

    def __init__(self, bind_address: str, advertise: str, ports: Sequence[int]) -> None:
        self._context = zmq.Context()
        server_public, server_secret = zmq.curve_keypair()
        client_public, client_secret = zmq.curve_keypair()
        self.asks = questions(self._context)
        self._may = {DOMAIN: z85.decode(client_public)}
        self.socket = door(self._context, server_secret)
        try:
            port = bind(self.socket, bind_address, ports)
        except OSError:
            self.socket.linger = 0
            self.close()
            raise
        self.keys = ClusterKeys(f"tcp://{advertise}:{port}", server_public, client_public, client_secret)

    @property
    def closed(self) -> bool:
        return self._context.closed

    def answer(self) -> None:
        """Answer libzmq's questions whether a CURVE key may enter."""
        answer(self.asks, self._may)

    def send(self, peer: bytes, body: bytes) -> None:
        """To one peer; who is not connected now is silently skipped."""
        self.socket.send_multipart([peer, body], zmq.NOBLOCK)

    def close(self) -> None:
        self.asks.close(0)
        self.socket.close()
        self._context.term()
