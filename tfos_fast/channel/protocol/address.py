"""The address of a channel: which process of this host keeps the segment, as which descriptor, and where its broker listens."""

from __future__ import annotations

from typing import NamedTuple

from tfos_fast.errors import AddressError


class Address(NamedTuple):
    """Parts of ``tfos:<pid>:<start>:<fd>:<segment id>:<socket path>``."""

    pid: int
    started: int
    fd: int
    segment_id: bytes
    socket: str

    def __str__(self) -> str:
        return f"tfos:{self.pid}:{self.started}:{self.fd}:{self.segment_id.hex()}:{self.socket}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.

        Raises
        ------
        AddressError
            It is none.
        """
        parts = text.split(":", 5)
        try:
            if parts[0] != "tfos":
                raise ValueError
            return cls(int(parts[1]), int(parts[2]), int(parts[3]), bytes.fromhex(parts[4]), parts[5])
        except (ValueError, IndexError):
            raise AddressError(f"{text!r} is no channel address; expected tfos:<pid>:<start>:<fd>:<id>:<path>") from None
