"""Clients that reach a gateway over TCP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zmq

from tests.support.helpers import gateway
from tfos_fast.channel import Channel
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.remote import wire
from tfos_fast.channel.remote.client import RemoteAddress
from tfos_fast.channel.schema.columns import Schema


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


class RemoteWriter:
    """A remote writer that sends any message, with an open partition."""

    def __init__(self, dealer: Any) -> None:
        self.dealer = dealer
        for message in (wire.Attach(""), m.Hello("writer", 1, 1), m.OpenPartition("", 0, False)):
            dealer.send(m.encode(message))
        hear(dealer), hear(dealer)
        self.stream = hear(dealer).stream

    def propose(self, schema: Schema) -> Any:
        """Propose columns, and return the answer."""
        self.dealer.send(m.encode(m.Propose(schema)))
        return hear(self.dealer)

    def send_slot(self, schema: Schema, rows: int, capacity: int, payload: list[bytes]) -> None:
        """Publish a slot whose frames are these."""
        number = self.propose(schema).schema_id
        self.dealer.send(m.encode(m.Want("input")))
        slot = hear(self.dealer).slots[0]
        self.dealer.send_multipart([m.encode(m.Publish(slot, self.stream, rows, capacity, number)), *payload])

    def publish(self, schema: Schema, rows: int, capacity: int, parts: list[tuple[int, bytes]]) -> Any:
        """Publish a slot of these parts, ask for the counters, and return the first answer."""
        self.send_slot(schema, rows, capacity, [m.encode([at for at, _ in parts]), *(data for _, data in parts)])  # type: ignore[arg-type]
        self.dealer.send(m.encode(m.AskStatus()))
        return hear(self.dealer)
