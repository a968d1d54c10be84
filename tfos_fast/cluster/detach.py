"""Outliving the Spark task that spawned this process, once it was answered."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable

import msgspec

from tfos_fast.channel.processes import die_with, reap, remove_own_directories


def detach() -> Callable[[msgspec.Struct], None]:
    """Go on in a child, which dies with the Spark worker until it has answered, by what is returned.

    A worker is reused and would keep us as a zombie: the process between it and us ends with the answer, and init inherits us.
    """
    worker = os.getppid()
    waiting, done = os.pipe()
    out = os.dup(1)
    os.dup2(2, 1)  # whatever is printed here goes to the executor's log
    child = os.fork()
    if child:
        os.close(done)
        os.close(out)  # the worker reads the answer to its end
        _guard(child, worker, waiting)
        os._exit(0)
    os.close(waiting)
    die_with(os.getppid())

    def answer(ready: msgspec.Struct) -> None:
        try:
            with open(out, "wb") as file:
                file.write(msgspec.json.encode(ready))
        except BrokenPipeError:  # the worker has died, and nobody knows of us
            remove_own_directories()
            os._exit(1)
        die_with(None)
        os.close(done)

    return answer


def _guard(child: int, worker: int, answered: int) -> None:
    """Kill the child if the worker dies before the answer: nobody knows of it, and it may be stopped, or wait for memory."""
    with contextlib.suppress(ProcessLookupError):
        readable, _, _ = select.select([answered, os.pidfd_open(worker)], [], [])
        if answered in readable:
            return
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    reap()
