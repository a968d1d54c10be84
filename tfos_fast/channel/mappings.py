"""Mappings that are kept from one connection to the next, in processes that connect often.

A Spark task opens a node's segment, writes its partition and is over; the worker that ran it soon runs another. The page table of
a new mapping is filled page by page, a twentieth of all processor time of a feed of (list of 784 floats, int), so workers keep
theirs. The memory must not outlive its owner for that: a thread waits for the owner's end, which the kernel tells, and lets go.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

from tfos_fast._segment import Mapping
from tfos_fast.channel.processes import open_pidfd, started

#: A mapping, and the slots whose pages are in this process's page table.
Mapped = tuple[Mapping, set[int]]

_kept: dict[bytes, Mapped] = {}
_keeps = False


def keep_mappings() -> None:
    """From now on this process keeps the mapping of every segment that it opens, until the segment's owner ends."""
    global _keeps
    _keeps = True


def mapped(identity: bytes, owner: int, make: Callable[[], Mapping]) -> Mapped:
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
        found = make(), set()
        pidfd = open_pidfd(owner, started(owner)) if _keeps else None
        if pidfd is not None:
            _kept[identity] = found
            threading.Thread(target=_until_it_ends, args=(identity, pidfd), name="tfos_fast mapping", daemon=True).start()
    return found


def _until_it_ends(identity: bytes, pidfd: int) -> None:
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll()
    finally:
        os.close(pidfd)
        _kept.pop(identity, None)  # two threads may have opened it at once: the later mapping is the one that was kept
