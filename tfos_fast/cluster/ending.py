"""Stopping the nodes, and seeing that no process of theirs is left."""

from __future__ import annotations

import contextlib
import logging
import os
import signal

from tfos_fast.channel.processes import alive, reap
from tfos_fast.cluster import messages as m
from tfos_fast.cluster.coordinator import Coordinator
from tfos_fast.cluster.machine import machine_id
from tfos_fast.errors import ClusterTimeout

log = logging.getLogger("tfos_fast.cluster")

STOP_TIMEOUT = 15.0


def is_gone(process: m.Process, machine: str) -> bool | None:
    """Whether a process has ended; None when it ran on another machine, where this one cannot look."""
    if process.machine != machine:
        return None
    return not alive(process.pid, process.started)


def stop_agents(coordinator: Coordinator, timeout: float = STOP_TIMEOUT) -> None:
    """Stop the agents and see that they and their trainers are gone; what does not go on this machine is killed."""
    machine = machine_id()
    coordinator.stop_nodes()

    def left() -> list[m.Process]:
        alive = []
        for state in coordinator.nodes.values():
            for process in (state.agent, state.trainer):
                if process is None:
                    continue
                gone = is_gone(process, machine)
                if gone is False or (gone is None and not state.gone):
                    alive.append(process)
        return alive

    try:
        coordinator.wait(lambda: not left(), timeout, "the driver waits for the nodes to stop")
    except ClusterTimeout:
        for process in left():
            log.warning("process %d of a node did not end and is killed", process.pid)
            if is_gone(process, machine) is False:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
    reap()  # an agent that was killed could not remove its folder
