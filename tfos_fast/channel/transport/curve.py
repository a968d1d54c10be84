"""CURVE on ZeroMQ sockets: encryption, and a key pair for each side. Every socket of this package gets its keys here.

A server has a secret key and a domain. libzmq asks the server's ZAP socket whether a client's public key may enter that domain.
A client has the server's public key and a key pair of its own.
"""

from __future__ import annotations

from typing import Any

import zmq


def as_client(socket: zmq.Socket[Any], server_public: bytes, client_public: bytes, client_secret: bytes) -> None:
    """Let a socket connect only to the server that has the secret of ``server_public``.

    Parameters
    ----------
    socket : zmq.Socket
        Not connected yet.
    server_public, client_public, client_secret : bytes
        Keys in Z85.
    """
    socket.curve_serverkey = server_public
    socket.curve_publickey = client_public
    socket.curve_secretkey = client_secret


def as_server(socket: zmq.Socket[Any], server_secret: bytes, domain: bytes) -> None:
    """Let in only the clients whose keys the ZAP socket of the same context accepts for this domain.

    Parameters
    ----------
    socket : zmq.Socket
        Not bound yet.
    server_secret : bytes
        A key in Z85.
    domain : bytes
        ZAP asks about a key together with this name.
    """
    socket.curve_server = True
    socket.curve_secretkey = server_secret
    socket.zap_domain = domain
