"""The trainer's last word, and how its agent gets it: from memory that both hold, which no cleaner of folders can take away.

The agent makes a memfd for the reports and a pipe for their announcement, the *bell*. The trainer inherits both, and maps the
memory before the program runs. So a report needs no descriptor, which a program may close, and no file, whose size it may limit.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os

import msgspec

from tfos_fast.cluster.protocol import handover as h

_MEMORY = "tfos-report"
_HEAD = 8  # bytes: where the newest report begins, and how long it is; written in one, when that report is whole
_ROOM = 1 << 19  # bytes of one report, more than the longest texts that `messages` takes have in UTF-8
_SIZE = _HEAD + 2 * _ROOM  # a report goes where the one before is not; the kernel gives the pages that are written


class Ear:
    """The agent's side.

    Attributes
    ----------
    bell : int
        Readable when the report is written. The owner closes it.
    inherited : tuple of int
        Descriptors that the trainer gets: of the memory, and of the pipe's other end.
    """

    def __init__(self) -> None:
        self._memory = os.memfd_create(_MEMORY, os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._memory, _SIZE)
            self.bell, self._rope = os.pipe()
        except OSError:
            os.close(self._memory)
            raise
        self.inherited = (self._memory, self._rope)

    def read(self) -> h.Report | None:
        """Return the newest report; None where the trainer has not written one to its end."""
        if self._memory < 0:
            return None
        head = int.from_bytes(os.pread(self._memory, _HEAD, 0), "little")
        if not head:
            return None
        try:
            return msgspec.msgpack.decode(os.pread(self._memory, head >> 32, head & 0xFFFFFFFF), type=h.Report)
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
    memory, rope : int
        What the trainer has inherited.
    """

    def __init__(self, memory: int, rope: int) -> None:
        self._pid = os.getpid()
        self._rope = rope, _identity(rope)
        os.set_inheritable(rope, False)
        # Not by the module mmap: it would keep a descriptor, and close in the end whatever has its number then.
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
        address = libc.mmap(None, _SIZE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, memory, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "mmap of the report")
        os.close(memory)
        self._head = ctypes.c_uint64.from_address(address)
        self._address = address
        self._next = _HEAD

    def write(self, report: h.Report) -> None:
        """Write a report, which takes the place of the one before.

        The agent finds it when it hears the bell, when this process ends, and when it looks.

        Raises
        ------
        ValueError
            It is longer than any whose texts `messages.clip` has shortened.
        """
        if os.getpid() != self._pid:
            return  # a fork of the trainer: its end is not the program's
        data = msgspec.msgpack.encode(report)
        if len(data) > _ROOM:
            raise ValueError(f"a report of {len(data)} bytes, and there is room for {_ROOM}")
        ctypes.memmove(self._address + self._next, data, len(data))
        self._head.value = len(data) << 32 | self._next
        self._next = _HEAD if self._next > _HEAD else _HEAD + _ROOM

    def ring(self) -> None:
        """Announce the report. Where the program has closed the pipe the agent finds it a second later."""
        fd, identity = self._rope
        with contextlib.suppress(OSError):
            if os.getpid() == self._pid and _identity(fd) == identity:
                os.write(fd, b"!")


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
