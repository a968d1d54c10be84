"""A rendezvous by hand: nodes register with a server and get to know each other.

``TFCluster.run`` has its own; its cluster's ``server`` is one of these for ``Client.request_stop()``, which ends streaming.
Connections are encrypted and authenticated (CURVE), messages are plain data. The keys travel with the address that ``start()``
returns, when that is pickled into a closure. A bare ``(host, port)`` works for processes of the same user on the server's host,
who find the keys in a private file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import msgspec
import zmq

from tfos_fast.channel.host.processes import runtime_base
from tfos_fast.channel.protocol.messages import UNREADABLE
from tfos_fast.channel.transport import curve
from tfos_fast.cluster.coordinator.endpoint import Entrance
from tfos_fast.cluster.host.addresses import listen_at
from tfos_fast.cluster.host.ports import HeldPort, parse_ports, unavailable
from tfos_fast.cluster.protocol.keys import ClusterKeys
from tfos_fast.compat import util
from tfos_fast.errors import ClusterError, ClusterTimeout

log = logging.getLogger("tfos_fast.compat")

TFOS_SERVER_HOST = "TFOS_SERVER_HOST"
TFOS_SERVER_PORT = "TFOS_SERVER_PORT"
ANSWER = 30.0  # seconds


class Address(tuple[str, int]):
    """``(host, port)`` that knows the keys."""

    keys: ClusterKeys

    def __new__(cls, host: str, port: int, keys: ClusterKeys) -> Address:
        self = super().__new__(cls, (host, port))
        self.keys = keys
        return self

    def __reduce__(self) -> Any:
        return Address, (*self, self.keys)


def _file(host: str, port: int) -> Path:
    return runtime_base() / f"reservation-{host}-{port}"


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the folder may have become somebody else's, or read-only
        path.unlink(missing_ok=True)


def held_port(host: str) -> HeldPort:
    """A port for TensorFlow: TENSORFLOW_PORT, or any."""
    setting = "TENSORFLOW_PORT"
    return HeldPort(host, parse_ports(os.environ.get(setting), setting), setting)


class _Ask(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    data: dict[str, Any] | None = None


class Reservations:
    """What nodes have registered, up to a number of them; for any number of threads.

    Parameters
    ----------
    required : int
    """

    def __init__(self, required: int) -> None:
        self.required = required
        self._nodes: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def add(self, meta: dict[str, Any]) -> None:
        """Another node has registered."""
        with self._lock:
            self._nodes.append(meta)

    def get(self) -> list[dict[str, Any]]:
        """All that have registered."""
        with self._lock:
            return list(self._nodes)

    def remaining(self) -> int:
        """How many are missing."""
        with self._lock:
            return max(0, self.required - len(self._nodes))

    def done(self) -> bool:
        """Whether none is missing."""
        return not self.remaining()


class Server:
    """Waits for so many nodes.

    Parameters
    ----------
    count : int

    Attributes
    ----------
    done : bool
        Somebody has requested a stop, or the server was stopped.
    reservations : Reservations
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"count must be 1 or more, not {count}")
        self.done = False
        self.reservations = Reservations(count)
        self._changed = threading.Condition()
        self._entrance: Entrance | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._forget: weakref.finalize[..., Server] | None = None

    def start(self, *, any_port: bool = False, front: tuple[str, str] | None = None) -> Address:
        """Listen; returns ``(host, port)``. TFOS_SERVER_HOST and TFOS_SERVER_PORT (a port or a range) say where.

        Parameters
        ----------
        any_port : bool
            Leave TFOS_SERVER_PORT to others.
        front : (str, str), optional
            Without TFOS_SERVER_HOST: the address to listen at, and the one that nodes know. Default: this host's address.
        """
        told = os.environ.get(TFOS_SERVER_HOST)
        bind, host = front if front and not told else (self.get_server_ip(),) * 2
        ports = (0,) if any_port else parse_ports(os.environ.get(TFOS_SERVER_PORT), TFOS_SERVER_PORT)
        setting = TFOS_SERVER_HOST if told else "the address of the driver"
        entrance = self._entrance = listen_at(bind, setting, lambda address: Entrance(address, host, ports))
        port = int(entrance.keys.endpoint.rpartition(":")[2])
        keys = entrance.keys
        try:
            path = _file(host, port)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(
                    msgspec.json.encode((keys.server_public.decode(), keys.client_public.decode(), keys.client_secret.decode()))
                )
            # Also when the program ends without stop(), as a script does whose feed has failed: there are keys in it.
            self._forget = weakref.finalize(self, _remove, path)
        except OSError as error:
            log.warning(
                "no other process can connect to %s:%d by this bare address, as its keys are kept nowhere: %s", host, port, error
            )
        self._thread = threading.Thread(target=self._serve, args=(entrance,), name="tfos_fast reservation", daemon=True)
        self._thread.start()
        return Address(host, port, keys)

    def get_server_ip(self) -> str:
        """The address that clients are to connect to: TFOS_SERVER_HOST, or that of this host."""
        return os.environ.get(TFOS_SERVER_HOST) or util.get_ip_address()

    def get_server_ports(self) -> list[int]:
        """The ports that may be taken, by TFOS_SERVER_PORT; ``[0]`` for any."""
        return list(parse_ports(os.environ.get(TFOS_SERVER_PORT), TFOS_SERVER_PORT))

    def start_listening_socket(self) -> socket.socket:
        """A socket that listens at the first of these ports that is free, for who talks to its clients himself.

        ``start`` does not use it. It listens on this host only.
        """
        for port in (ports := self.get_server_ports()):
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
                listener.listen(10)
            except OSError:
                listener.close()
                continue
            return listener
        raise unavailable("127.0.0.1", ports, TFOS_SERVER_PORT)

    def _serve(self, entrance: Entrance) -> None:
        poller = zmq.Poller()
        poller.register(entrance.socket, zmq.POLLIN)
        poller.register(entrance.asks, zmq.POLLIN)
        try:
            while not self._closing:
                for source, _ in poller.poll(100):
                    if source is entrance.asks:
                        entrance.answer()
                        continue
                    peer, *body = entrance.socket.recv_multipart()
                    with contextlib.suppress(zmq.ZMQError):  # it has left
                        entrance.send(peer, msgspec.msgpack.encode(self._answer(body)))
        finally:
            entrance.close()

    def _answer(self, body: list[bytes]) -> Any:
        try:
            ask = msgspec.msgpack.decode(body[0], type=_Ask)
        except (IndexError, *UNREADABLE):
            return "ERR"
        with self._changed:
            if ask.kind == "REG" and ask.data is not None:
                self.reservations.add(ask.data)
            elif ask.kind == "QUERY":
                return self.reservations.done()
            elif ask.kind == "QINFO":
                return self.reservations.get()
            elif ask.kind == "STOP":
                self.done = True
            else:
                return "ERR"
            self._changed.notify_all()
            return "OK"

    def await_reservations(
        self, sc: Any = None, status: dict[str, Any] | None = None, timeout: float = 600
    ) -> list[dict[str, Any]]:
        """Wait for all nodes; gives what they registered.

        Raises
        ------
        ClusterTimeout
        ClusterError
            ``status`` got an ``"error"`` meanwhile.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while missing := self.reservations.remaining():
                if status and "error" in status:
                    raise ClusterError(f"a node failed while {missing} were waited for: {status['error']}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ClusterTimeout(
                        f"{self.reservations.required - missing} of {self.reservations.required} nodes registered within "
                        f"{timeout:g} s; the setting is timeout (reservation_timeout)"
                    )
                self._changed.wait(min(left, 0.5))  # status is set by others
            return self.reservations.get()

    def stop(self) -> None:
        """Listen no more."""
        self.done = True
        self._closing = True
        if self._thread is not None:
            self._thread.join(10)
            self._thread = None
        elif self._entrance is not None and not self._entrance.closed:
            self._entrance.close()  # it was opened, and starting went no further
        if self._forget is not None:
            self._forget()


class Client:
    """Talks to a server.

    Parameters
    ----------
    server_addr : tuple
        ``(host, port)`` as ``Server.start()`` gave it.
    """

    def __init__(self, server_addr: Any) -> None:
        host, port = server_addr
        keys = server_addr.keys if isinstance(server_addr, Address) else self._look_up(host, int(port))
        self.server_addr = server_addr
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        curve.as_client(self._socket, keys.server_public, keys.client_public, keys.client_secret)
        self._socket.connect(f"tcp://{host}:{port}")

    @staticmethod
    def _look_up(host: str, port: int) -> ClusterKeys:
        try:
            server, public, secret = msgspec.json.decode(_file(host, port).read_bytes(), type=tuple[str, str, str])
        except FileNotFoundError:
            raise ClusterError(
                f"no reservation server of this user is known at {host}:{port}. A bare address works on the server's own host, for "
                "the same user; elsewhere send the address that Server.start() returned inside a Spark closure"
            ) from None
        return ClusterKeys(f"tcp://{host}:{port}", server.encode(), public.encode(), secret.encode())

    def _ask(self, kind: str, data: dict[str, Any] | None = None) -> Any:
        self._socket.send(msgspec.msgpack.encode(_Ask(kind, data)))
        if not self._socket.poll(int(ANSWER * 1000)):
            host, port = self.server_addr
            raise ClusterTimeout(
                f"the reservation server at {host}:{port} did not answer within {ANSWER:g} s; is it still running?"
            )
        return msgspec.msgpack.decode(self._socket.recv())

    def register(self, reservation: dict[str, Any]) -> Any:
        """Tell of a node: a dict of plain values."""
        return self._ask("REG", reservation)

    def get_reservations(self) -> list[dict[str, Any]]:
        """Those that have registered by now."""
        reservations: list[dict[str, Any]] = self._ask("QINFO")
        return reservations

    def await_reservations(self) -> list[dict[str, Any]]:
        """Wait for all of them."""
        while not self._ask("QUERY"):
            time.sleep(0.1)
        return self.get_reservations()

    def request_stop(self) -> Any:
        """Have the server's ``done`` set: a streaming cluster ends."""
        return self._ask("STOP")

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()
        self._context.term()
