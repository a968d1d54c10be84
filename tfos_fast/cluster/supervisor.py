"""The trainer's supervision: spawned, its report and death noticed, its end told to everybody who waits for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from tfos_fast.channel import messages as channel_messages
from tfos_fast.channel.broker import Broker
from tfos_fast.cluster import messages as m
from tfos_fast.cluster.child import Child
from tfos_fast.cluster.machine import this_process
from tfos_fast.cluster.named import NamedFeeds

LAST_WORDS = 0.05  # a trainer's last messages may still be in the broker's socket when the kernel reports its death
DYING = 10.0  # a trainer whose main has raised may take so long to end


def watch_once(broker: Broker, fd: int, call: Callable[[], None]) -> None:
    """Call when the descriptor is readable for the first time, and close it."""

    def callback() -> None:
        broker.unwatch(fd)
        os.close(fd)
        call()

    broker.watch(fd, callback)


class Supervisor:
    """The trainer of one node. To be used on the agent's main thread.

    Parameters
    ----------
    name, host : str
    broker : Broker
        Its loop notices the trainer's end.
    feeds : callable
        Gives the node's feeds, whose writers and readers are told.
    state : callable
        Tells the coordinator.

    Attributes
    ----------
    started : bool
    ended : bool
        The end, with or without a failure, was told.
    """

    def __init__(
        self, name: str, host: str, broker: Broker, feeds: Callable[[], NamedFeeds], state: Callable[[m.Message], None]
    ) -> None:
        self.name = name
        self.host = host
        self.broker = broker
        self.ended = False
        self._feeds = feeds
        self._state = state
        self._child: Child | None = None

    @property
    def started(self) -> bool:
        return self._child is not None

    @property
    def pid(self) -> int | None:
        """The trainer's, once it was started."""
        return self._child.pid if self._child is not None else None

    @property
    def status(self) -> int | None:
        """Its exit status; None when it was not started or runs."""
        return self._child.status if self._child is not None else None

    @property
    def log_tail(self) -> str:
        """The last lines that it printed."""
        return self._child.tail if self._child is not None else ""

    def spawn(self, directory: Path) -> None:
        """Start the trainer that the handover in this folder describes."""
        child = self._child = Child(self.name, self.host, directory)
        watch_once(self.broker, child.pidfd, self._trainer_died)
        watch_once(self.broker, child.report_fd, self._trainer_reports)
        self._state(m.Started(this_process(child.pid)))

    def _trainer_reports(self) -> None:
        """The pipe says that the report is written (or that the trainer is gone, of which the pidfd speaks)."""
        assert self._child is not None
        failure = self._child.failure(dead=False)
        if failure is not None and not self.ended:
            self.end(failure)
            deadline = time.monotonic() + DYING
            self.broker.every(1.0, lambda: self.kill() if time.monotonic() > deadline else None)

    def _trainer_died(self) -> None:
        assert self._child is not None
        failure = self._child.failure(dead=True)
        if self.ended:
            return
        if failure is not None:
            self.end(failure)
            return
        due = time.monotonic() + LAST_WORDS
        self.broker.every(LAST_WORDS, lambda: self.end(None) if time.monotonic() >= due and not self.ended else None)

    def end(self, failure: m.Failure | None) -> None:
        """Tell everybody that the trainer has ended, and why."""
        self.ended = True
        status = self.broker.status()
        taken, left = status["rows_taken"], status["rows_published"] - status["rows_taken"]
        if failure is not None:
            for broker in self._feeds().all():
                broker.fail(
                    failure.summary, failure.remote_traceback, failure.node, failure.host, kind=failure.kind, signal=failure.signal
                )
        else:
            for broker in self._feeds().all():
                broker.terminate()
        self._state(m.Ended(failure, taken, left))

    def explain_death(self, pid: int) -> channel_messages.Failed | None:
        """Words for a dead reader: if it was the trainer, its end is told by signal or traceback."""
        failure = self._child.failure(dead=True) if self._child is not None and pid == self._child.pid else None
        if failure is None:
            return None
        return channel_messages.Failed(
            failure.kind, failure.summary, failure.node, failure.host, failure.remote_traceback, failure.signal
        )

    def kill(self) -> None:
        """End it now, with all that it has spawned."""
        if self._child is not None:
            self._child.kill()
