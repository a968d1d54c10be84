"""A connection on the broker's host: it maps the segment, watches the broker's process, and may rest between two uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import zmq

from tfos_fast import errors
from tfos_fast.channel.host import reuse
from tfos_fast.channel.host.processes import open_pidfd, reap
from tfos_fast.channel.host.segment import Segment
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.address import Address
from tfos_fast.channel.transport.connection import Connection, Role

_HEARD_S = 2.0  # else the connection is closed, which waits as long


class LocalConnection(Connection):
    """Attach to a broker on this host.

    Parameters
    ----------
    address : str
    role, handler, stall_timeout
        As for `Connection`.

    Raises
    ------
    AddressError
        The address is malformed or names no live channel of this user on this host.
    """

    segment: Segment
    # Each message about a slot wakes the broker and the reader, whose caches are full of others' data: for a slot of 16 MiB it is
    # 1 ms of processor time in all.
    hold_s = 0.05

    def __init__(self, address: str, role: Role, handler: Callable[[Any], None] | None, *, stall_timeout: float) -> None:
        self._closed = True
        where = Address.parse(address)
        self.broker = f"the broker (process {where.pid})"
        line = reuse.take(where.segment_id) if role != "reader" else None
        if line is not None:
            self.segment, self._pidfd = line.segment, line.pidfd
            super().__init__(role, handler, stall_timeout=stall_timeout, socket=line.socket)
        else:
            self.segment = Segment.open(where.pid, where.fd, where.segment_id)
            pidfd = open_pidfd(where.pid, where.started)
            if pidfd is None:
                raise errors.AddressError(f"the broker of {address} (process {where.pid}) is gone")
            self._pidfd = pidfd
            super().__init__(role, handler, stall_timeout=stall_timeout)
            self._socket.connect(f"ipc://{where.socket}")
        self._watch(self._pidfd)
        try:
            self._greet()
        except BaseException:
            self.close(abort=True)
            raise

    def _put_all(self, messages: list[m.Message]) -> None:
        self._socket.send_multipart([m.encode(message) for message in messages], zmq.NOBLOCK)  # one wake-up of the broker

    def _lost(self) -> str:
        reap()  # it could not remove its socket itself
        return f"{self.broker} died"

    def _release(self) -> None:
        super()._release()
        os.close(self._pidfd)

    def close(self, *, abort: bool = False, told: bool = False) -> None:
        """As of every connection. One that is kept is left for the next user once the broker has all that was sent over it."""
        fit = not (abort or self._closed) and self.failure is None and os.getpid() == self._pid
        if not (fit and reuse.keeps(self.segment.id) and self._rest(told)):
            super().close(abort=abort)

    def _rest(self, told: bool) -> bool:
        # Closing a socket waits until the kernel has what was sent. Here it may still be in this process, which may be killed.
        try:
            self.flush()
            if not told:
                self._status = None
                self.send(m.AskStatus())
                self.wait(lambda: self._status, "the broker to have heard all", timeout=_HEARD_S)
            self._put(m.Bye(rests=True))
        except (errors.TfosError, zmq.Again):
            return False
        self._closed = True
        reuse.rest(self.segment.id, reuse.Line(self._socket, self._pidfd, self.segment))
        return True
