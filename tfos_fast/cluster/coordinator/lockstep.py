"""On how many steps the nodes of a feed agree: all can do them. Pure: no I/O, no clock; the coordinator carries its messages.

Each node tells how many steps of the epoch its published rows are good for (*ready*, counted by its broker, ahead of its trainer).
A node is *dry* when no partition is open at it and none is left that Spark could bring: each was claimed, by a task that has opened
it or found it empty, or Spark's job is over. Of a dry node it is asked to make batches of its last rows (*settle*); when it has
answered, what it is ready for is all that it has::

                     dry                    its answer
    OPEN ---------------------> SETTLING ----------------> SETTLED
      ^                            |                          |
      +---- a partition comes after all (a task's retry) -----+

Who stops at the first node without rows can do the least that any node is ready for; when that node has settled, the epoch is over.
Who pads can do the least that any node with rows in sight is ready for; when all have settled, the most, and the epoch is over.

What was agreed on is never taken back: a node that was told so may have begun the step, and must not wait in it. A node whose
program leaves ends the epoch for all, behind the steps agreed on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tfos_fast.channel.protocol.lockstep import Pace
from tfos_fast.cluster.coordinator.ledger import MOST_PARTITIONS, number_of


@dataclass(frozen=True)
class Tell:
    """All nodes can do so many steps of the epoch; ``end``: and no more."""

    node: str
    epoch: int
    steps: int
    end: bool


@dataclass(frozen=True)
class AskSettle:
    """No more rows are in sight for the node; its answer carries ``turn``."""

    node: str
    epoch: int
    turn: int


Action = Tell | AskSettle


@dataclass
class _StepMember:
    host: str
    pace: Pace | None = None  # None: its program has not asked to go in step
    ready: int = 0
    asked: bool = False
    settled: bool = False
    turn: int = 0
    gone: bool = False
    told: tuple[int, int, bool] = (-1, 0, False)
    open: set[str] = field(default_factory=set)


class StepAgreement:
    """The agreement of one feed, epoch after epoch.

    Attributes
    ----------
    epoch : int
        -1 before the first.
    steps : int
        Agreed on in this epoch.
    over : bool
        No more steps will be.
    """

    def __init__(self) -> None:
        self._members: dict[str, _StepMember] = {}
        self.reset()

    def reset(self) -> None:
        """The nodes' programs begin anew, and with them the agreement."""
        self.epoch = -1
        self.steps = 0
        self.over = True
        self._members.clear()
        self._job = ""
        self._total: int | None = None  # partitions of the epoch's job
        self._most = MOST_PARTITIONS  # no number of one is as high
        self._claimed: dict[str, str] = {}  # key -> node where it is or was open; "": it is empty
        self._done: set[str] = set()

    # ---- what the driver knows -----------------------------------------------------------------------------------------------

    def begin(self, job: str, hosts: dict[str, str], epoch: int | None = None) -> None:
        """The next epoch begins: the job whose partitions have this prefix.

        Parameters
        ----------
        job : str
        hosts : dict
            Node -> its host.
        epoch : int, optional
            Its number: how many have ended; default: one more than before.
        """
        self.epoch = self.epoch + 1 if epoch is None else epoch
        self.steps, self.over = 0, False
        self._job, self._total, self._most = job, None, MOST_PARTITIONS
        self._claimed.clear()
        self._done.clear()
        for name, host in hosts.items():
            member = self._members.setdefault(name, _StepMember(host))
            member.host = host
            member.ready, member.asked, member.settled = 0, False, False
            member.open.clear()

    def partitions(self, total: int) -> None:
        """Of so many partitions the job consists."""
        self._total = self._most = total

    def finish(self) -> None:
        """The job is over: no more partitions come."""
        self._total = len(self._claimed)
        for name in [name for name in self._claimed if name not in self._done]:
            self.done(name)

    @property
    def wanted(self) -> bool:
        """Whether some program goes in step."""
        return any(member.pace is not None for member in self._members.values())

    @property
    def begun(self) -> bool:
        """Whether tasks of the job run."""
        return bool(self._claimed)

    @property
    def counted(self) -> bool:
        """Whether it is known of how many partitions the job consists."""
        return self._total is not None

    def absent(self) -> str:
        """Who does not go in step though others do, for an error message; empty: nobody."""
        if self.over or not self.wanted:
            return ""
        absent = [name for name, member in self._members.items() if member.pace is None and not member.gone]
        if not absent:
            return ""
        asked = next(name for name, member in self._members.items() if member.pace is not None)
        return f"{asked} waits for {', '.join(absent)} to read its feed with uneven=, too, so that they go in step"

    def waits(self) -> str:
        """Who has no rows for the next step though others have; empty: nobody."""
        if self.over or not self.wanted:
            return ""
        slow = [
            name for name, member in self._members.items() if not (member.settled or member.gone) and member.ready == self.steps
        ]
        return f"the nodes wait for {', '.join(slow)}, without rows for step {self.steps + 1}" if slow else ""

    # ---- what nodes tell -----------------------------------------------------------------------------------------------------

    def join(self, node: str, pace: Pace) -> str:
        """The node's program goes in step. Returns why it cannot; empty: it can."""
        member = self._members.get(node)
        if member is None:
            member = self._members[node] = _StepMember("")
        for name, other in self._members.items():
            if other.pace is not None and other.pace.uneven != pace.uneven:
                return (
                    f"{node} reads its feed with uneven={pace.uneven!r}, {name} with uneven={other.pace.uneven!r}; all must agree"
                )
        member.pace = pace
        return ""

    def opened(self, node: str, key: str) -> None:
        """The node may publish rows of a partition."""
        member = self._members.get(node)
        if not self._mine(key) or member is None:
            return
        before = self._members.get(self._claimed.get(key, ""))
        if before is not None:
            before.open.discard(key)
        self._claimed[key] = node
        if key in self._done:
            return  # an attempt that has nothing to add
        member.open.add(key)
        if member.asked:
            member.asked = member.settled = False
            member.turn += 1
            if member.pace is not None and member.pace.uneven == "pad":
                member.ready = max(member.ready, member.told[1] if member.told[0] == self.epoch else 0)

    def done(self, key: str) -> None:
        """All rows of the partition are published, or it has none."""
        if self._mine(key):
            member = self._members.get(self._claimed.setdefault(key, ""))
            self._done.add(key)
            if member is not None:
                member.open.discard(key)

    def ready(self, node: str, epoch: int, steps: int, turn: int) -> None:
        """The node is ready for so many steps; ``turn`` is that of the settle it has done last."""
        member = self._members.get(node)
        if member is None or epoch != self.epoch:
            return
        member.ready = max(member.ready, steps)
        member.settled = member.asked and turn == member.turn

    def gone(self, node: str) -> None:
        """The node's program takes no more rows."""
        if node in self._members:
            self._members[node].gone = True

    def better(self, node: str, key: str) -> str:
        """A node of the same host that needs the partition more, as nothing is open there; empty: this one may have it."""
        member = self._members.get(node)
        if member is None or not self._mine(key) or not self.wanted or self.over or key in self._claimed or not member.open:
            return ""
        hungry = [
            (other.ready, name)
            for name, other in self._members.items()
            if other.host == member.host and not other.open and not other.gone
        ]
        return min(hungry)[1] if hungry else ""

    # ---- what follows --------------------------------------------------------------------------------------------------------

    def actions(self) -> list[Action]:
        """What is to be sent after some changes, in order."""
        if self.epoch < 0 or not self.wanted:
            return []
        out: list[Action] = []
        if not self.over:
            dry = self._total is not None and len(self._claimed) >= self._total
            for name, member in self._members.items():
                if dry and member.pace is not None and not (member.asked or member.open or member.gone):
                    member.asked = True
                    member.turn += 1
                    out.append(AskSettle(name, self.epoch, member.turn))
            self._advance()
        now = (self.epoch, self.steps, self.over)
        for name, member in self._members.items():
            if member.told != now and (self.steps or self.over) and member.pace is not None and not member.gone:
                member.told = now
                out.append(Tell(name, *now))
        return out

    def repeat(self, node: str) -> list[Action]:
        """What a node that has connected anew may have missed."""
        member = self._members.get(node)
        if member is None or member.pace is None or self.epoch < 0:
            return []
        out: list[Action] = []
        if member.asked and not member.settled:
            out.append(AskSettle(node, self.epoch, member.turn))
        if member.told[0] == self.epoch:
            out.append(Tell(node, *member.told))
        return out

    def _advance(self) -> None:
        members = self._members.values()
        if any(member.gone for member in members):
            self.over = True
            return
        if any(member.pace is None for member in members):
            return
        least = min(member.ready for member in members)
        if next(iter(members)).pace.uneven == "stop":  # type: ignore[union-attr]
            self.steps = max(self.steps, least)
            self.over = any(member.settled and member.ready <= self.steps for member in members)
            return
        going = [member.ready for member in members if not member.settled]
        if going:
            self.steps = max(self.steps, min(going))
        else:
            self.steps = max(self.steps, *(member.ready for member in members))
            self.over = True

    def _mine(self, key: str) -> bool:
        if self.over or not self._job or key.rpartition("/")[0] != self._job:
            return False
        # Who holds the key of the cluster could invent partitions otherwise, and so make nodes seem dry.
        number = number_of(key)
        return number is not None and number < self._most
