"""Which connection an address asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfos_fast.channel.remote.client import RemoteAddress, RemoteConnection
from tfos_fast.channel.transport.connection import Connection, Role
from tfos_fast.channel.transport.local import LocalConnection


def connect(address: str | RemoteAddress, role: Role, handler: Callable[[Any], None] | None, *, stall_timeout: float) -> Connection:
    """Attach to the broker of an address, on this host or over the network.

    Raises
    ------
    AddressError
        There is none.
    """
    if isinstance(address, RemoteAddress):
        return RemoteConnection(address, role, handler, stall_timeout=stall_timeout)
    return LocalConnection(address, role, handler, stall_timeout=stall_timeout)
