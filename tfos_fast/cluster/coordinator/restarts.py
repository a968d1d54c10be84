"""Which trainers are started again when one has died, and when. Pure: no I/O, no clock; the coordinator carries the orders.

A trainer that died is first *halted*: whatever is left of it is killed, its agent begins the feed anew, and tells which rows were
lost. Then it is *begun* again. In a group all trainers are halted, and none is begun before the last one is dead: none of the new
ones must meet an old one::

             a death, or that of another one of the group                  all of the round are halted
    RUNS -------------------------------------------------> HALTING --> HALTED ----------------------> RUNS (its next life)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

Kind = Literal["node", "group"]


class TrainerState(Enum):
    """Of one trainer."""

    RUNS = auto()
    HALTING = auto()
    HALTED = auto()


@dataclass(frozen=True)
class Halt:
    """The node is to end what is left of this life."""

    node: str
    life: int


@dataclass(frozen=True)
class Begin:
    """The node is to begin this life, in the epoch of this number."""

    node: str
    life: int
    epoch: int


Action = Halt | Begin


@dataclass
class _RestartMember:
    life: int = 0
    used: int = 0
    state: TrainerState = TrainerState.RUNS
    epoch: int = 0
    round: frozenset[str] = frozenset()


@dataclass
class Restarts:
    """The restarts of one cluster.

    Parameters
    ----------
    most : int
        So many of each node; of the group, so many in all.
    kind : {"node", "group"}
        Who is started again: the node whose trainer died, or all.
    """

    most: int = 0
    kind: Kind = "node"
    _members: dict[str, _RestartMember] = field(default_factory=dict)
    _rounds: int = 0

    def life(self, node: str) -> int:
        """The number of the node's life: how often it was started again."""
        return self._member(node).life

    def under_way(self, node: str) -> bool:
        """Whether the node is between two lives."""
        return self._member(node).state is not TrainerState.RUNS

    def fell(self, node: str, life: int, everybody: Iterable[str], *, group: bool = False) -> list[Action] | None:
        """A trainer has died.

        Parameters
        ----------
        node : str
        life : int
            Which of its lives has ended.
        everybody : iterable of str
            The nodes of the cluster.
        group : bool
            The nodes go in step, so that the others cannot go on either.

        Returns
        -------
        list or None
            What is to be ordered; None: it may not be started again.
        """
        member = self._member(node)
        if life != member.life or member.state is not TrainerState.RUNS:
            return []  # known, or it was killed with its group
        if self.kind == "group" or group:
            if self._rounds >= self.most:
                return None
            self._rounds += 1
            names = frozenset(everybody) | {node}
        else:
            if member.used >= self.most:
                return None
            member.used += 1
            names = frozenset([node])
        # Who is between two lives joins: its next life must not begin beside an old one of this round.
        for name in sorted(names):
            names |= self._member(name).round
        actions: list[Action] = []
        for name in sorted(names):
            other = self._member(name)
            other.round = names
            if other.state is TrainerState.RUNS:
                other.state = TrainerState.HALTING
                actions.append(Halt(name, other.life))
        return actions

    def halted(self, node: str, life: int, epoch: int) -> list[Action]:
        """A life is over, the last commit of which was in this epoch."""
        member = self._member(node)
        if life != member.life or member.state is not TrainerState.HALTING:
            return []
        member.state, member.epoch = TrainerState.HALTED, epoch
        members = {name: self._member(name) for name in sorted(member.round)}
        if any(other.state is not TrainerState.HALTED for other in members.values()):
            return []
        first = min(other.epoch for other in members.values())  # a group goes through its epochs together
        actions: list[Action] = []
        for name, other in members.items():
            other.life += 1
            other.state, other.round = TrainerState.RUNS, frozenset()
            actions.append(Begin(name, other.life, first))
        return actions

    def _member(self, node: str) -> _RestartMember:
        return self._members.setdefault(node, _RestartMember())
