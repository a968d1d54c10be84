"""What a trainer has started, in whatever session or group: found and ended with it.

The agent is a *subreaper*: a process whose parent has ended becomes the agent's child, so it stays findable. Of the agent's
children all are the trainer's but those that the agent has started itself: TensorBoard and the gateway.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path

import psutil

from tfos_fast.channel.host.descriptors import none_left

log = logging.getLogger("tfos_fast.agent")

PATIENCE = 5.0  # seconds for killed processes to be gone
_PAUSE = 0.01


def below(spare: Collection[int] = ()) -> list[psutil.Process]:
    """Return what descends from this process, without its children ``spare`` and their descendants."""
    found: list[psutil.Process] = []
    try:
        for child in psutil.Process().children():
            if child.pid not in spare:
                found.append(child)
                with contextlib.suppress(psutil.NoSuchProcess):
                    found += child.children(recursive=True)
    except OSError as error:
        if not none_left(error):
            raise
        log.warning("what the trainer has started cannot be looked for: %s", error)
    return found


def terminate(processes: Collection[psutil.Process]) -> None:
    """Ask each to end, by SIGTERM."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.terminate()  # it looks whether the id is still the same process's


def kill_all(find: Callable[[], list[psutil.Process]]) -> None:
    """Kill what ``find`` gives until it gives nothing more that lives. Zombies of this process are taken away."""
    deadline = time.monotonic() + PATIENCE
    while alive := [process for process in find() if not _is_over(process)]:
        if time.monotonic() > deadline:
            names = ", ".join(str(process.pid) for process in alive)
            log.warning("processes %s, which the trainer has started, were killed and are not gone", names)
            return
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.kill()
        time.sleep(_PAUSE)


def _is_over(process: psutil.Process) -> bool:
    """Whether it is dead; a zombie among this process's children is taken away."""
    try:
        if process.status() != psutil.STATUS_ZOMBIE:
            return False
        if process.ppid() == os.getpid():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
    except psutil.NoSuchProcess:
        pass
    return True


def bury(spare: Collection[int]) -> None:
    """Take away the orphans that have ended: they became children of this process. Those that it has started itself are spared."""
    with contextlib.suppress(OSError):  # no file descriptor is left: they are taken away later
        for file in Path("/proc/self/task").glob("*/children"):
            for pid in _children_in(file):
                if pid not in spare:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)


def _children_in(file: Path) -> list[int]:
    try:
        return list(map(int, file.read_text().split()))
    except OSError:  # the thread has ended
        return []
