"""Ports as TensorFlow takes them."""

from __future__ import annotations

import socket


def can_bind(endpoint):
    """Whether a server that sets what TensorFlow's sets can have this port."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", int(endpoint.rpartition(":")[2])))
            server.listen()
        except OSError:
            return False
        return True
