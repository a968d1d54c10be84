"""Processes of a node that are held by a SIGSTOP, or a debugger: they neither die nor move, and others wait for them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Literal

from tfos_fast.channel.host.processes import children, is_stopped
from tfos_fast.cluster.agent.feeds import NamedFeeds
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol.identity import machine_id
from tfos_fast.cluster.protocol.messages import STOPPED

log = logging.getLogger("tfos_fast.agent")


class StoppedProcesses:
    """Looks after the tasks, the executor and the trainer of one node.

    Parameters
    ----------
    config : AgentConfig
    feeds : NamedFeeds
        Its writers are the tasks.
    trainer : callable
        Gives the trainer's process id, or None.
    """

    def __init__(self, config: h.AgentConfig, feeds: NamedFeeds, trainer: Callable[[], int | None]) -> None:
        self._config = config
        self._feeds = feeds
        self._trainer = trainer
        self._here = config.executor.machine == machine_id()
        self._since: dict[int, float] = {}  # process -> when it was first seen to be held

    def look(self) -> dict[int, Literal["trainer", "task", "executor"]]:
        """Those that are held now, and what they are."""
        kinds: dict[int, Literal["trainer", "task", "executor"]]
        kinds = {peer.pid: "task" for broker in self._feeds.all() for peer in broker.feed.peers.values() if peer.role == "writer"}
        if self._here:
            for pid in children(self._config.workers):  # before its first row a task is attached to no broker
                kinds[pid] = "task"
            kinds[self._config.executor.pid] = "executor"
        trainer = self._trainer()
        if trainer is not None:
            kinds[trainer] = "trainer"
        held = {pid: kind for pid, kind in kinds.items() if is_stopped(pid)}
        now = time.monotonic()
        self._since = {pid: self._since.get(pid, now) for pid in held}
        return held

    def words(self) -> str:
        """Who is held, behind a sentence about who waits."""
        return "".join(f"; the {kind} (process {pid}) {STOPPED}" for pid, kind in self.look().items())

    def end_tasks(self) -> None:
        """Kill tasks of an inference that were held for half of their timeout, as of the last ``look()``.

        The driver's action is Spark's, which would wait for ever; of a task that died it makes another. Half: before those who
        wait for the place that the task's results take give up.
        """
        if not self._since:
            return
        now = time.monotonic()
        workers = children(self._config.workers) if self._here else []
        for broker in self._feeds.all():
            for peer in list(broker.feed.peers.values()):
                stream = peer.stream
                if stream is None or stream.closed or not stream.exchange or peer.pid not in workers:
                    continue
                held = now - self._since.get(peer.pid, now)
                if held > peer.patience / 2:
                    log.warning(
                        "a task of an inference (process %d) %s for %.0f s: it is killed, so that Spark tries it again",
                        peer.pid, STOPPED.replace("is", "has been", 1), held,
                    )  # fmt: skip
                    with contextlib.suppress(ProcessLookupError):  # Spark was quicker
                        os.kill(peer.pid, signal.SIGKILL)
