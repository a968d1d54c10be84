"""What a process that connects often keeps from one connection to the next: the mapping of a segment, and connections at rest.

A Spark task opens its node's segment, writes its partition and is over; the worker that ran it soon runs another. The page table of
a new mapping is filled page by page, a twentieth of all processor time of a feed of (list of 784 floats, int), and a connection is
two threads of ZeroMQ, a socket, and file descriptors by which each end watches the other's process. So workers keep both. To the
feed the writer has left: it has said goodbye, and says hello anew. Nothing must outlive the segment's owner for that: a thread
waits for the owner's end, which the kernel tells, and lets go.
"""

from __future__ import annotations

import atexit
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zmq

from tfos_fast.channel.host.processes import has_ended, open_pidfd, started
from tfos_fast.native.shared_memory import Mapping

_MOST_AT_REST = 4  # connections to one broker; a worker runs one task at a time


@dataclass
class Line:
    """A connection without a user: what is kept of it."""

    socket: zmq.Socket[bytes]
    pidfd: int
    segment: Any  # the Segment that it opened
    pid: int = field(default_factory=os.getpid)

    def close(self) -> None:
        """Hang up."""
        self.segment.close()
        os.close(self.pidfd)
        context = self.socket.context
        self.socket.close(linger=0)
        context.term()


@dataclass
class Kept:
    """A mapping, the slots whose pages are in this process's page table, and the lines to its broker."""

    mapping: Mapping
    seen: set[int] = field(default_factory=set)
    lines: deque[Line] = field(default_factory=deque)


_kept: dict[bytes, Kept] = {}
_keeps = False


def keep_connections() -> None:
    """From now on this process keeps what belongs to a segment that it opens, until the segment's owner ends."""
    global _keeps
    if not _keeps:
        atexit.register(_hang_up)
    _keeps = True


def mapped(identity: bytes, owner: int, make: Callable[[], Mapping]) -> Kept:
    """The mapping of a segment: the one that is kept, or a new one.

    Parameters
    ----------
    identity : bytes
        Of the segment.
    owner : int
        Process id of who holds it, and has shown that it does.
    make : callable
        Maps it.
    """
    found = _kept.get(identity)
    if found is None:
        found = Kept(make())
        pidfd = open_pidfd(owner, started(owner)) if _keeps else None
        if pidfd is not None:
            _kept[identity] = found
            threading.Thread(target=_until_it_ends, args=(identity, pidfd), name="tfos_fast kept", daemon=True).start()
    return found


def keeps(identity: bytes) -> bool:
    """Whether a line of this segment would be kept."""
    kept = _kept.get(identity)
    return kept is not None and len(kept.lines) < _MOST_AT_REST


def rest(identity: bytes, line: Line) -> None:
    """Keep a line for the next connection to the same broker."""
    kept = _kept.get(identity)
    if kept is None:
        line.close()  # the owner has ended at this moment
        return
    kept.lines.append(line)
    if _kept.get(identity) is not kept:
        _hang_up_all(kept)


def rests(identity: bytes) -> bool:
    """Whether a line is at rest that ``take`` would give."""
    kept = _kept.get(identity)
    return kept is not None and any(line.pid == os.getpid() for line in list(kept.lines))


def take(identity: bytes) -> Line | None:
    """A line at rest; from now on it is the caller's."""
    kept = _kept.get(identity)
    while kept is not None:
        try:
            line = kept.lines.pop()
        except IndexError:
            return None
        if line.pid != os.getpid():
            continue  # of the process that this one was forked from: its descriptors are not ours to close
        if has_ended(line.pidfd):
            line.close()
            continue
        return line
    return None


def _until_it_ends(identity: bytes, pidfd: int) -> None:
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll()
    finally:
        os.close(pidfd)
        kept = _kept.pop(identity, None)  # two threads may have opened it at once: the later mapping is the one that was kept
        if kept is not None:
            _hang_up_all(kept)


def _hang_up_all(kept: Kept) -> None:
    while True:
        try:
            line = kept.lines.pop()
        except IndexError:
            return
        if line.pid == os.getpid():
            line.close()


def _hang_up() -> None:
    """The interpreter ends: a context whose sockets are open would wait for them in the garbage collection."""
    for kept in list(_kept.values()):
        _hang_up_all(kept)
