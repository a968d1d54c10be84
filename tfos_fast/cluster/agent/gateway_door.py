"""The node's door for remote feeders: a listening socket, behind which a gateway is started when somebody first knocks."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess

import zmq

from tfos_fast.channel.broker.broker import Broker
from tfos_fast.channel.host.processes import open_pidfd, started
from tfos_fast.channel.remote.gateway import GatewayConfig, spawn
from tfos_fast.cluster.agent.supervisor import watch_once
from tfos_fast.cluster.protocol import handover as h

log = logging.getLogger("tfos_fast.agent")

_BACKLOG = 128
_AGAIN = 1.0  # seconds after which a gateway that could not be started is tried again


class Door:
    """To be used on the agent's main thread.

    Parameters
    ----------
    config : AgentConfig
    broker : Broker
        Its loop sees who knocks.
    ip : str
        Address of this host on the driver's network.

    Attributes
    ----------
    endpoint : str
        ``host:port``; empty when the cluster is on one host and nobody is to be let in.
    public_key : str
        The gateway's CURVE key, in Z85. The secret one never leaves this process and its gateway.
    """

    def __init__(self, config: h.AgentConfig, broker: Broker, ip: str) -> None:
        self.endpoint = self.public_key = ""
        self._config = config
        self._broker = broker
        self._gateway: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        if not config.listen:
            return
        ip = "127.0.0.1" if config.listen == "loopback" else ip
        public, secret = zmq.curve_keypair()
        self.public_key, self._secret = public.decode(), secret.decode()
        self._socket = socket.create_server((ip, 0), backlog=_BACKLOG)
        self.endpoint = f"{ip}:{self._socket.getsockname()[1]}"
        self._wait()

    def _wait(self) -> None:
        if self._socket is not None:
            self._broker.watch(self._socket.fileno(), self._open)

    def _open(self) -> None:
        """Somebody knocks: the gateway takes the connection, this process never reads from it."""
        assert self._socket is not None
        self._broker.unwatch(self._socket.fileno())
        config = self._config
        try:
            self._gateway = spawn(
                GatewayConfig(
                    self._broker.address, self._socket.fileno(), self._secret, config.client_public, config.log_level, config.name
                )
            )
            pidfd = open_pidfd(self._gateway.pid, started(self._gateway.pid))
        except OSError as error:  # no file descriptor or no process is to be had: who knocks waits
            log.warning("%s: no gateway of remote feeds can be started: %s", config.name, error)
            if self._gateway is not None:
                self._gateway.kill()
                self._gateway.wait()
                self._gateway = None
            self._broker.after(_AGAIN, self._wait)
            return
        if pidfd is None:
            self._gone()
        else:
            watch_once(self._broker, pidfd, self._gone)

    def _gone(self) -> None:
        # Its writers have seen their connections break; whoever knocks next gets a new one.
        assert self._gateway is not None
        log.warning("%s: the gateway of remote feeds ended with status %s", self._config.name, self._gateway.wait())
        self._gateway = None
        self._wait()

    @property
    def gateway(self) -> int | None:
        """Its process id, while it runs."""
        return self._gateway.pid if self._gateway is not None else None

    def close(self) -> None:
        """End the gateway and close the socket."""
        if self._gateway is not None:
            self._gateway.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._gateway.wait(5.0)
        if self._socket is not None:
            self._socket.close()
