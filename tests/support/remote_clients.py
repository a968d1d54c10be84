"""Clients that reach a gateway over TCP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zmq

from tests.support.helpers import gateway
from tfos_fast.channel import Channel
from tfos_fast.channel.remote import wire
from tfos_fast.channel.remote.client import RemoteAddress


@contextmanager
def remote(**options: Any) -> Iterator[tuple[Channel, Channel]]:
    """A channel, and a remote handle on it."""
    with Channel.create(**options) as channel, gateway(channel.address) as address:
        with Channel.attach(address) as far:
            yield channel, far


@contextmanager
def client(address: RemoteAddress, keys: tuple[bytes, bytes] | None = None) -> Iterator[Any]:
    """A bare socket, by default with the right keys."""
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.curve_serverkey = address.server_public
    dealer.curve_publickey, dealer.curve_secretkey = keys or (address.client_public, address.client_secret)
    dealer.connect(f"tcp://{address.endpoint}")
    try:
        yield dealer
    finally:
        dealer.close()
        context.term()


def hear(dealer: Any) -> Any:
    """The next message."""
    while True:
        assert dealer.poll(10_000), "no answer"
        message = wire.decode_from_gateway(dealer.recv_multipart()[0])
        if not isinstance(message, wire.Still):
            return message
