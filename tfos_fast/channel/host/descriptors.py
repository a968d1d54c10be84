"""File descriptors, when a process has none left: loops that serve others go on with what they have, and say so."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import time

import zmq

log = logging.getLogger("tfos_fast")

#: Programs that the trainer starts may close all that they might have, one by one.
ENOUGH = 1 << 16
_before: list[tuple[int, int]] = []
_PAUSE = 0.05  # seconds; what could not be done is tried again at once


def none_left(error: BaseException) -> bool:
    """Return whether an error says that this process, or the whole system, has no file descriptor left."""
    return isinstance(error, OSError | zmq.ZMQError) and error.errno in (errno.EMFILE, errno.ENFILE)


def make_room() -> None:
    """Let this process have as many descriptors as it may, up to :data:`ENOUGH`.

    A broker needs it: libzmq aborts a process that has none left for a connection to a socket of the file system.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < most:
        _before.append((soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def as_before(pid: int) -> None:
    """Give a process that this one has just started the limit that this one had before :func:`make_room`."""
    if _before:
        with contextlib.suppress(OSError):  # it has ended
            resource.prlimit(pid, resource.RLIMIT_NOFILE, _before[0])


class Descriptors:
    """Tells of a process that has no file descriptor left, once, and when it has some again.

    Parameters
    ----------
    who : str
        The process, for the log.
    what : str
        What it cannot do meanwhile.
    """

    def __init__(self, who: str, what: str) -> None:
        self._who, self._what = who, what
        self._missed = False

    def look(self) -> bool:
        """Return whether one is left. libzmq does not say that it cannot take a connection."""
        try:
            os.close(os.eventfd(0))
        except OSError as error:
            if not none_left(error):
                raise
            self._tell()
            return False
        if self._missed:
            self._missed = False
            log.warning("%s has file descriptors again", self._who)
        return True

    def met(self, error: BaseException) -> None:
        """Say so, and wait a moment, if an error has come of that; raise any other one."""
        if not none_left(error):
            raise error
        self._tell()
        time.sleep(_PAUSE)

    def _tell(self) -> None:
        if not self._missed:
            self._missed = True
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            log.warning("%s has no file descriptor left (ulimit -n is %d): until it has, %s", self._who, limit, self._what)
