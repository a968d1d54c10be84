"""The trainer's last word, and how its agent gets it: from memory that both hold, which no cleaner of folders can take away.

The agent makes a memfd for the report and a pipe for its announcement, the *bell*. The trainer inherits both. A program may close
descriptors that it does not know, and open files of its own under their numbers. Then the trainer opens the agent's descriptors
through ``/proc``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import msgspec

from tfos_fast.cluster import handover as h

_MEMORY = "tfos-report"


class Ear:
    """The agent's side.

    Attributes
    ----------
    bell : int
        Readable when the report is written. The owner closes it.
    inherited : tuple of int
        Descriptors that the trainer gets: of the report, and of the pipe's other end.
    """

    def __init__(self) -> None:
        self._memory = os.memfd_create(_MEMORY, os.MFD_CLOEXEC)
        try:
            self.bell, self._rope = os.pipe()
        except OSError:
            os.close(self._memory)
            raise
        self.inherited = (self._memory, self._rope)

    def read(self) -> h.Report | None:
        """Return the report; None where the trainer has not written one to its end."""
        if self._memory < 0:
            return None
        data = os.pread(self._memory, os.fstat(self._memory).st_size, 0)
        try:
            return msgspec.msgpack.decode(data, type=h.Report)
        except msgspec.MsgspecError:
            return None

    def close(self) -> None:
        """Give up what the trainer has inherited, when it is dead and its report was read."""
        for fd in (self._memory, self._rope):
            if fd >= 0:
                os.close(fd)
        self._memory = self._rope = -1


class Mouth:
    """The trainer's side. To be made before the program runs.

    Parameters
    ----------
    agent : int
        Its process id.
    memory, rope : int
        What the trainer has inherited.
    """

    def __init__(self, agent: int, memory: int, rope: int) -> None:
        self._pid = os.getpid()
        self._agent = agent
        self._memory = memory, _identity(memory)
        self._rope = rope, _identity(rope)
        for fd in (memory, rope):
            os.set_inheritable(fd, False)

    def write(self, report: h.Report) -> None:
        """Write the report. The agent finds it when it hears the bell, when this process ends, and when it looks."""
        if os.getpid() != self._pid:
            return  # a fork of the trainer: its end is not the program's
        data = msgspec.msgpack.encode(report)
        with self._opened(*self._memory) as fd:
            os.ftruncate(fd, 0)
            at = 0
            while at < len(data):
                at += os.pwrite(fd, data[at:], at)

    def ring(self) -> None:
        """Announce the report."""
        if os.getpid() == self._pid:
            with self._opened(*self._rope) as fd:
                os.write(fd, b"!")

    @contextlib.contextmanager
    def _opened(self, fd: int, identity: tuple[int, int]) -> Iterator[int]:
        try:
            ours = _identity(fd) == identity
        except OSError:
            ours = False
        if ours:
            yield fd
            return
        again = os.open(f"/proc/{self._agent}/fd/{fd}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            yield again
        finally:
            os.close(again)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
