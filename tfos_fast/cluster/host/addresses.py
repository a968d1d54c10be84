"""At which address of this host something listens: at the one of a setting, and at all only where that is none of this host's."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from typing import TypeVar

from tfos_fast.errors import PortUnavailable, SettingRefused

log = logging.getLogger("tfos_fast.cluster")
T = TypeVar("T")

EVERYWHERE = "0.0.0.0"
#: The system knows the address, and it belongs to no interface of this host.
_NOT_OURS = (errno.EADDRNOTAVAIL, errno.ENODEV)


def numeric(name: str, setting: str) -> str:
    """Return the IPv4 address of a host name or address; empty where nobody here knows the name.

    Parameters
    ----------
    name : str
        ``"::"`` and ``"0.0.0.0"`` are all addresses.
    setting : str
        Where the name is from, for the error.

    Raises
    ------
    SettingRefused
        The name has IPv6 addresses only.
    """
    bare = name.strip().removeprefix("[").removesuffix("]")
    if bare in ("::", EVERYWHERE):
        return EVERYWHERE
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ""
    for family, *_, address in found:
        if family == socket.AF_INET:
            return str(address[0])
    raise SettingRefused(
        f"{setting} is {name!r}, which has IPv6 addresses only, and the processes of a cluster talk IPv4. Set it to an IPv4 "
        "address of this host, or set server_host (TFOS_SERVER_HOST) to one, which only tfos_fast reads"
    )


def listen_at(name: str, setting: str, listen: Callable[[str], T]) -> T:
    """Call ``listen(address)`` with the address of a name.

    Where that is none of this host's (behind a NAT, in a container) all addresses take its place, and the log says so. Any other
    error is raised: nothing falls back to all addresses for it.

    Raises
    ------
    PortUnavailable
    SettingRefused
        As of :func:`numeric`.
    OSError
    """
    address = numeric(name, setting)
    if address:
        try:
            return listen(address)
        except PortUnavailable:
            raise
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
    log.warning("%s is %r, which is no address of this host: this process listens at all of its addresses", setting, name)
    return listen(EVERYWHERE)
