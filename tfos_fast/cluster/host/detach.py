"""Outliving the Spark task that spawned this process, once it was answered; and a parent that tells how this process ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable

import msgspec

from tfos_fast.channel.host.processes import adopt_orphans, die_with, reap, remove_own_directories
from tfos_fast.cluster.host.descendants import below, kill_all


def detach(on_end: Callable[[int], None] | None = None) -> Callable[[msgspec.Struct], None]:
    """Go on in a grandchild, which dies with the Spark worker until it has answered, by what is returned.

    A worker is reused and would keep us as a zombie: its child ends with the answer, and init inherits what is below. That is
    the *parent*, which sleeps until this process ends, since nobody else is told how it did.

    Parameters
    ----------
    on_end : callable
        ``on_end(status)`` is called in the parent when this process has ended after its answer; the exit status is negative
        when a signal ended it.
    """
    worker = os.getppid()
    answered, done = os.pipe()
    out = os.dup(1)
    os.dup2(2, 1)  # whatever is printed here goes to the executor's log
    parent = os.fork()
    if parent:
        os.close(done)
        os.close(out)  # the worker reads the answer to its end
        if os.read(answered, 1):
            os._exit(0)
        os._exit(_shown(os.waitpid(parent, 0)[1]))
    adopt_orphans()  # those of a process that was killed
    child = os.fork()
    if child:
        os.close(done)
        os.close(out)
        _watch(child, worker, answered, on_end)
    os.close(answered)
    die_with(os.getppid())

    def answer(ready: msgspec.Struct) -> None:
        try:
            with open(out, "wb") as file:
                file.write(msgspec.json.encode(ready))
        except BrokenPipeError:  # the worker has died, and nobody knows of us
            remove_own_directories()
            os._exit(1)
        die_with(None)
        os.write(done, b"ok")  # a byte for each of those above
        os.close(done)

    return answer


def _watch(child: int, worker: int, answered: int, on_end: Callable[[int], None] | None) -> None:
    """Wait for the child. If the worker dies before the answer, kill it: nobody knows of it, and it may be stopped, or wait."""
    ready: list[int] = []
    with contextlib.suppress(ProcessLookupError):
        ready, _, _ = select.select([answered, os.pidfd_open(worker)], [], [])
    told = answered in ready and bool(os.read(answered, 1))
    if answered not in ready:
        os.kill(child, signal.SIGKILL)
    if told and on_end is None:
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    try:
        kill_all(below)  # a process that was killed could not end what it has started
        if told and on_end is not None:
            on_end(os.waitstatus_to_exitcode(status))
        else:
            reap()
    finally:
        os._exit(_shown(status))


def _shown(status: int) -> int:
    """As a shell shows it: 128 and the signal's number."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
