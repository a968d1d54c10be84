"""Run a program for which the kernel refuses system calls, as a container's seccomp profile does.

``refuse_calls.py ERRNO CALL,... PROGRAM ...``
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

NUMBERS = {
    "x86_64": {"memfd_create": 319, "pidfd_open": 434},
    "aarch64": {"memfd_create": 279, "pidfd_open": 434},
}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF: load a word, jump if equal, return
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def refuse(numbers: list[int], code: int) -> None:
    """Let the kernel answer these system calls with an error, for this process and its children."""
    program = [(_LOAD, 0, 0, 0)]  # the call's number stands first in the data that a filter sees
    for number in numbers:
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | code)]
    program.append((_RETURN, 0, 0, _ALLOW))
    text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(text)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, head, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")


if __name__ == "__main__":
    _, name, calls, *command = sys.argv
    refuse([NUMBERS[platform.machine()][call] for call in calls.split(",")], getattr(errno, name))
    os.execvp(command[0], command)
