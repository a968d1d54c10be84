"""What the driver knows of each node, and what follows from it. Pure: the coordinator's thread changes it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.roles import FED


@dataclass
class NodeState:
    """What the coordinator knows of one node."""

    name: str
    token: str
    host: str
    agent: m.Process
    connected: float = 0.0  # monotonic time of the last message
    trainer: m.Process | None = None
    started: bool = False
    ended: bool = False
    terminated: bool = False
    holding: bool = False
    tensorboard: str = ""
    asked: bool = False  # by terminate(): rather than by leaving
    failure: m.Failure | None = None
    failures: int = 0  # that were told of it
    rows_taken: int = 0  # over all lives of its trainer, without what comes again
    newest: m.Fed = m.Fed()  # noqa: RUF009  # of the feeds that it had rows of
    beat: m.Beat | None = None
    acks: set[int] = field(default_factory=set)
    orders: dict[int, m.ControlMessage] = field(default_factory=dict)  # sent and not acknowledged
    demands: dict[str, m.Demand] = field(default_factory=dict)  # by name of the feed
    totals: m.Totals = field(default_factory=m.Totals)
    status: int | None = None  # exit status of the trainer
    pidfd: int | None = None
    missed: float | None = None  # monotonic time at which its agent was seen to be dead; how it died is yet to be told
    gone: bool = False
    said_bye: bool = False
    stopped: dict[int, float] = field(default_factory=dict)  # process that is stopped -> since when, by the driver's clock
    garbled: bool = False  # something came that could not be read
    begun: int = 0  # partitions of the default feed that came to it, each in each epoch once
    stopped_at: tuple[int, int] | None = None  # when it took no more: the epoch, and how many partitions of all had begun
    at: int = 0  # the epoch that it is in, by the count of all that were fed
    feed_ended: bool = False  # its program was told that no more rows come
    restarts: list[str] = field(default_factory=list)  # why its trainer was started again, each time
    returned: float | None = None  # monotonic time at which its main was heard to have returned; its process may still run
    waits: str = ""  # for what that process waits
    note: str = ""  # how its process ended badly, although what it has done counts
    losing: m.Lost | None = None  # what its life that is over leaves, as far as it has told

    def begin_anew(self) -> None:
        """Its trainer is dead, and will be started again: forget what that one has said."""
        self.terminated = self.asked = self.holding = self.ended = self.feed_ended = False
        self.stopped_at = self.returned = None
        self.waits = self.note = ""
        self.demands.clear()
        self.losing = None

    @property
    def eats(self) -> bool:
        """Whether rows fed to it will still be taken."""
        return self.fed and not (self.ended or self.terminated or self.gone)

    @property
    def fed(self) -> bool:
        """Whether it is one of those that Spark feeds, and whose ``main`` is waited for."""
        return self.trains and not self.holding

    @property
    def trains(self) -> bool:
        """Whether its role is one of those that Spark feeds."""
        return self.name.partition(":")[0] in FED

    def stops(self, everybody: Iterable[NodeState]) -> None:
        """It takes no more rows."""
        if self.stopped_at is None:
            self.stopped_at = self.at, sum(state.begun for state in everybody)

    def had(self, feed: int) -> m.Fed:
        """What it had of the feed of this number, behind which there is none."""
        return self.newest if self.newest.number == feed else m.Fed(feed)

    @property
    def why_early(self) -> str:
        """Why it takes no more rows."""
        # A reader that leaves without terminate() does so because main returned; its process ends a moment later.
        return "called terminate()" if self.asked else "returned from main" if self.terminated or self.ended else "is gone"


def early_nodes(
    states: Mapping[str, NodeState], feed: int, last: int, before: Mapping[str, int], *, whole: bool, missed: Set[str]
) -> list[str]:
    """The nodes that took no more rows of a feed though there were some for them, or would have been.

    Parameters
    ----------
    states : mapping
        Of the nodes that are fed.
    feed : int
        Its number.
    last : int
        Number of the epoch that was to be its last one.
    before : mapping
        Node -> how many partitions had come to it when the feed began.
    whole : bool
        All tasks came to their end, and nothing is left to feed.
    missed : set of str
        Nodes that wanted no more in the middle of a partition; an empty name: some partition came to no node.
    """
    begun = {name: state.begun - before[name] for name, state in states.items()}
    share = sum(begun.values()) // max(1, len(begun))
    in_all = sum(state.begun for state in states.values())

    def is_early(name: str, state: NodeState) -> bool:
        if state.eats:
            return False
        at, then = state.stopped_at or (state.at, 0)
        others = then < in_all and begun[name] < share  # partitions came to others that would have been its own
        return not whole or at < last or others or state.had(feed).left > 0 or not missed.isdisjoint((name, ""))

    return [name for name, state in states.items() if is_early(name, state)]


SILENT = 2.5  # seconds; an agent tells once a second how things stand


def stuck(states: Iterable[NodeState]) -> str:
    """Who waits for whom, when feed tasks wait; empty when they do not."""
    lines = []
    for state in states:
        beat = state.beat
        if not state.eats:
            continue
        who = f"{state.name} on {state.host}"
        silent = time.monotonic() - state.connected
        if silent > SILENT:  # perhaps before its first beat
            lines.append(f"nothing was heard of the agent of {who} (process {state.agent.pid}) for {silent:.0f} s")
            continue
        if beat is None:
            continue
        trainer = f"its trainer (process {state.trainer.pid})" if state.trainer else "its trainer"
        held = f" {m.STOPPED} and" if "trainer" in beat.stopped.values() else ""
        for pid, what in beat.stopped.items():
            if what == "task":
                lines.append(f"a feed task (process {pid}) at {who} {m.STOPPED}")
            elif what == "executor":
                lines.append(f"the executor of {who} (process {pid}) {m.STOPPED}")
        if beat.writers and not beat.reader:
            lines.append(f"{beat.writers} feed tasks wait for {who}, where {trainer}{held} does not read")
            continue
        left = beat.rows_published - beat.rows_taken
        if any(isinstance(order, m.ReplayEpoch) for order in state.orders.values()):
            lines.append(f"the driver waits for {who}, where {trainer}{held} has {left} rows of a replay that it does not take")
        elif beat.waiting or (beat.writers and left) or held:
            lines.append(f"{beat.writers} feed tasks wait for {who}, where {trainer}{held} has {left} rows that it does not take")
    return "; ".join(lines)


def behind_main(state: NodeState) -> float:
    """For how many seconds the process of a ``main`` that has returned has not ended; -1 where there is none such."""
    if state.returned is None or state.ended or state.gone or not state.fed:
        return -1.0
    return time.monotonic() - state.returned


def lingers(state: NodeState) -> str:
    """The same in words; empty where there is none such."""
    seconds = behind_main(state)
    if seconds < 0:
        return ""
    trainer = f"its process ({state.trainer.pid})" if state.trainer else "its process"
    why = f"waits for {state.waits}" if state.waits else "has not ended yet"
    return f"{state.name} on {state.host}: main returned {seconds:.0f} s ago, and {trainer} {why}"


def held_trainer(states: Iterable[NodeState], seconds: float) -> str:
    """The trainer that has been stopped for so long, in words; empty when there is none."""
    now = time.monotonic()
    for state in states:
        trainer = state.trainer
        over = state.ended or state.returned is not None  # what main has done counts
        if trainer is not None and state.fed and not over and now - state.stopped.get(trainer.pid, now) > seconds:
            return f"{state.name} on {state.host}: its trainer (process {trainer.pid}) {m.STOPPED}"
    return ""
