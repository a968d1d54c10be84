"""TCP ports that a node keeps for TensorFlow, and those that the user prescribes."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence

from tfos_fast.errors import PortUnavailable


def parse_ports(text: int | str | None, setting: str) -> Sequence[int]:
    """``9997`` or ``"9997-9999"`` as the ports to try, in order; nothing, or 0, as ``(0,)``: any free one.

    Raises
    ------
    ValueError
    """
    words = "" if text is None else str(text).strip()
    if words in ("", "0"):
        return (0,)
    found = re.fullmatch(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?", words)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < first <= last < 65536:
        raise ValueError(f"{setting} is a port (9997) or a range of ports (9997-9999), not {words!r}")
    return range(first, last + 1)


def unavailable(address: str, ports: Sequence[int], setting: str) -> PortUnavailable:
    """The error when none of them can be had."""
    which = f"port {ports[0]} is" if len(ports) == 1 else f"ports {ports[0]} to {ports[-1]} are all"
    return PortUnavailable(
        f"{which} taken at {address}. Each node of a host needs a port of its own: give a range such as 9997-9999 ({setting}), "
        "or none for any free port"
    )


class HeldPort:
    """A port that no other program of this host gets, though nobody listens yet.

    It is bound and never listens. As long as it is bound without SO_REUSEADDR, every other bind fails; :meth:`share` sets that,
    after which TensorFlow's server, which sets it too, can bind beside it, while what asks for any free port does not get this one.
    So there is no moment at which the port is free.

    Parameters
    ----------
    address : str
    ports : sequence of int
        To try in order; 0 is any free one.
    setting : str
        Named in the error.

    Raises
    ------
    PortUnavailable
    """

    def __init__(self, address: str, ports: Sequence[int] = (0,), setting: str = "") -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        for port in ports:
            try:
                self._socket.bind((address, port))
                break
            except OSError:
                continue
        else:
            self._socket.close()
            raise unavailable(address, ports, setting)
        self.port: int = self._socket.getsockname()[1]

    def share(self) -> None:
        """Let TensorFlow bind it, too."""
        if self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def close(self) -> None:
        """Give it up: any program may bind it."""
        self._socket.close()
