"""The trainer's supervision: spawned, its report and death noticed, its end told to everybody who waits for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from tfos_fast.channel.broker.broker import Broker
from tfos_fast.channel.protocol import messages as channel_messages
from tfos_fast.cluster.agent.feeds import NamedFeeds
from tfos_fast.cluster.agent.trainer_process import Child
from tfos_fast.cluster.host.descendants import bury
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.failures import to_channel
from tfos_fast.cluster.protocol.identity import this_process

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
    spare : callable
        Gives the processes that the agent has started itself, and that are not the trainer's.

    Attributes
    ----------
    life : int
        How many trainers were there before this one.
    started : bool
    ended : bool
        The end, with or without a failure, was told.
    fallen : Failure or None
        It is dead, and the driver was asked whether there will be another one.
    """

    def __init__(
        self,
        name: str,
        host: str,
        broker: Broker,
        feeds: Callable[[], NamedFeeds],
        state: Callable[[m.ControlMessage], None],
        spare: Callable[[], set[int]] = set,
    ) -> None:
        self.name = name
        self.host = host
        self.broker = broker
        self.life = 0
        self.started = False
        self.ended = False
        self.fallen: m.Failure | None = None
        self._feeds = feeds
        self._state = state
        self._spare = spare
        self._child: Child | None = None  # the one that lives, or was the last one to live
        self._directory: Path | None = None
        self._asks = False
        self._reported = False  # the report of the one that lives was heard

    @property
    def pid(self) -> int | None:
        """The trainer's, once it was started."""
        return self._child.pid if self._child is not None else None

    @property
    def returned(self) -> bool:
        """Whether ``main`` of the one that lives, or has died, has returned."""
        report = self._child.report() if self._child is not None else None
        return report is not None and not report.summary

    @property
    def status(self) -> int | None:
        """Its exit status; None when it was not started or runs."""
        return self._child.status if self._child is not None else None

    @property
    def log_tail(self) -> str:
        """The last lines that it printed."""
        return self._child.tail if self._child is not None else ""

    def spawn(self, directory: Path, *, asks: bool = False) -> None:
        """Start the trainer that the handover in this folder describes; with ``asks`` it may be started again."""
        child = Child(self.name, self.host, directory, self.life, self._spare)
        self._directory, self._asks, self.started = directory, asks, True
        if self._child is not None:
            self._child.close()
        self._child = child
        self._reported = False
        watch_once(self.broker, child.pidfd, lambda: self._trainer_died(child))
        watch_once(self.broker, child.report_fd, lambda: self._trainer_reports(child))
        self._state(m.Started(this_process(child.pid), self.life))

    def halt(self) -> None:
        """This life is over: kill what is left of it."""
        self.kill()
        self.ended, self.fallen = False, None
        self.life += 1

    def begin(self) -> None:
        """Start the next life, if there was one before."""
        if self._directory is None:
            return
        try:
            self.spawn(self._directory, asks=self._asks)
        except OSError as error:
            text = (
                f"{self.name} on {self.host}: main cannot be started again: {error}. What it needs was in {self._directory}; "
                "TFOS_RUNTIME_DIR on the executors names the folder"
            )
            self.end(m.Failure("NodeFailed", m.clip(text, m.MAX_TEXT), self.name, self.host))

    def _lives(self, child: Child) -> bool:
        """Whether nothing was said yet of how this one ended."""
        return child is self._child and child.life == self.life and not self.ended and self.fallen is None

    def _trainer_reports(self, child: Child) -> None:
        """The report is written."""
        if child is self._child and not self._reported and self._lives(child):
            self._reported = True
            failure = child.failure(dead=False, fed=False)
            if failure is None:
                # A terminate() of the program may still be in its socket, and is to be read first.
                self.broker.after(LAST_WORDS, lambda: self._returned(child))
                return
            if not self._asks:
                self.end(failure)
            self.broker.after(DYING, lambda: child.kill() if child.status is None else None)

    def _returned(self, child: Child) -> None:
        """``main`` has returned."""
        if not self._lives(child):
            return
        report = child.report()
        self._state(m.Returned(self.life, m.clip(report.waits if report else "", m.MAX_NAMES)))
        for broker in self._feeds().all():
            broker.terminate()  # it may never have opened its feed, and its process may run on

    def look(self) -> None:
        """Take orphans away that have ended, and see whether there is a report of which nobody has told.

        A program may hold its process up between the report and the word that it is written.
        """
        bury(self._spare() | ({self._child.pid} if self._child is not None else set()))
        if self._child is not None and not self._reported and self._child.report() is not None:
            self._trainer_reports(self._child)

    def _trainer_died(self, child: Child) -> None:
        if not self._lives(child):
            return
        failure = child.failure(dead=True, fed=self._is_fed())
        if failure is None or self._asks or not child.status:  # what it has said last still counts
            self.broker.after(LAST_WORDS, lambda: self._conclude(child, failure))
        else:
            self.end(failure)

    def _conclude(self, child: Child, failure: m.Failure | None) -> None:
        if not self._lives(child):
            return
        if failure is not None:
            failure = child.failure(dead=True, fed=self._is_fed())  # its last messages were read meanwhile
        if failure is None:
            self.end(None)
            return
        child.kill()  # what it has spawned
        self.fallen = failure
        self._state(m.Fell(self.life, failure))

    def _is_fed(self) -> bool:
        """Whether the feed is over, and no row or result is owed."""
        feed = self.broker.feed
        writers = any(peer.role == "writer" for peer in feed.peers.values())
        return feed.terminated or (feed.ended and feed.rows_taken == feed.rows_published and not writers)

    def give_up(self, text: str) -> None:
        """There will be no other one: what has happened is a failure."""
        if self.fallen is not None and not self.ended:
            self.end(msgspec.structs.replace(self.fallen, summary=m.clip(f"{self.fallen.summary}{text}", m.MAX_TEXT)))

    def end(self, failure: m.Failure | None, note: str = "") -> None:
        """Tell everybody that the trainer has ended, and why; a note tells of what is no failure."""
        self.ended = True
        if failure is not None:
            for broker in self._feeds().all():
                broker.fail(to_channel(failure))
        else:
            for broker in self._feeds().all():
                broker.terminate()
        if self._child is not None and failure is None:
            note = note or self._child.note
        self._state(m.Ended(failure, self.broker.feed.rows_taken, self._feeds().newest, m.clip(note, m.MAX_TEXT)))

    def explain_death(self, pid: int) -> channel_messages.Failed | None:
        """Words for a dead reader: if it was the trainer, its end is told by signal or traceback."""
        if self._child is None or pid != self._child.pid:
            return None
        failure = self._child.failure(dead=True, fed=self._is_fed())
        return None if failure is None else to_channel(failure)

    def ended_well(self, pid: int) -> bool:
        """Whether a dead reader was the trainer, and has done its work."""
        return self._child is not None and pid == self._child.pid and self.explain_death(pid) is None

    def kill(self) -> None:
        """End it now, with all that it has spawned."""
        if self._child is not None:
            self._child.kill()
