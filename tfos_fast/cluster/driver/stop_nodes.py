"""Stopping the nodes, and seeing that no process of theirs is left."""

from __future__ import annotations

import contextlib
import logging
import os
import signal

from tfos_fast.channel.host.processes import alive, is_stopped, reap
from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.identity import machine_id
from tfos_fast.errors import ClusterTimeout

log = logging.getLogger("tfos_fast.cluster")

STOP_TIMEOUT = 15.0
LAST_WORDS = 0.5


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
        """Those that still run; one that is stopped does not end by itself."""
        alive = []
        for state in coordinator.nodes.values():
            for process in (state.agent, state.trainer):
                if process is None:
                    continue
                gone = is_gone(process, machine)
                if gone is False and process is state.agent and is_stopped(process.pid):
                    _kill(process, machine)
                if gone is False or (gone is None and not state.gone):
                    alive.append(process)
        return alive

    try:
        coordinator.wait(lambda: not left(), timeout, "the driver waits for the nodes to stop")
    except ClusterTimeout:
        for process in left():
            log.warning("process %d of a node did not end and is killed", process.pid)
            _kill(process, machine)
        with contextlib.suppress(ClusterTimeout):  # the kernel takes a moment to give back a large memory
            coordinator.wait(lambda: not left(), timeout, "")
    # The last words of agents that have ended in order are in the socket.
    with contextlib.suppress(ClusterTimeout):
        heard = lambda: all(node.said_bye or node.failure for node in coordinator.nodes.values())  # noqa: E731
        coordinator.wait(heard, LAST_WORDS, "")
    reap()  # an agent that was killed could not remove its folder


def _kill(process: m.Process, machine: str) -> None:
    if is_gone(process, machine) is False:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
