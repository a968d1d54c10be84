"""How a trainer tells the benchmark what it saw, from whichever machine: JSON over TCP. Knows neither Spark nor tfos_fast."""

from __future__ import annotations

import json
import secrets
import socket
import socketserver
import threading
from typing import Any

LIMIT = 64 << 20


class Collector:
    """Listens in the driver; each report is a JSON object, and only one that carries the token is kept.

    Parameters
    ----------
    host : str
        The driver's address as its executors see it.

    Attributes
    ----------
    address : dict
        What :func:`send` needs; goes to the trainers with their arguments.
    """

    def __init__(self, host: str) -> None:
        self._reports: dict[str, list[dict[str, Any]]] = {}
        self._changed = threading.Condition()
        token = secrets.token_hex(16)
        collector = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                report = json.loads(self.rfile.readline(LIMIT))
                if report.pop("token", "") == token:
                    collector._keep(report)
                    self.wfile.write(b"kept\n")

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self._server = Server((host, 0), Handler)
        self.address = {"host": host, "port": self._server.server_address[1], "token": token}
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _keep(self, report: dict[str, Any]) -> None:
        with self._changed:
            self._reports.setdefault(report.pop("of"), []).append(report)
            self._changed.notify_all()

    def wait(self, of: str, count: int, timeout: float = 60.0) -> list[dict[str, Any]]:
        """The first ``count`` reports of this name.

        Raises
        ------
        TimeoutError
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._reports.get(of, ())) >= count, timeout):
                raise TimeoutError(f"{len(self._reports.get(of, ()))} of {count} trainers told what they saw of {of}")
            return self._reports[of][:count]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def send(address: dict[str, Any], of: str, **report: Any) -> None:
    """Send a report and wait until it is kept.

    Raises
    ------
    ConnectionError
    """
    with socket.create_connection((address["host"], address["port"]), timeout=30) as connection:
        connection.sendall(json.dumps({"token": address["token"], "of": of, **report}).encode() + b"\n")
        if connection.makefile("rb").readline() != b"kept\n":
            raise ConnectionError(f"the benchmark at {address['host']}:{address['port']} did not take the report of {of}")
