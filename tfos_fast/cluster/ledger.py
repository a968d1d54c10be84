"""Who delivers which partition, and how far: the book behind exactly-once delivery. Pure: no I/O, no clock.

A *partition* is named by a key, ``<job>/<partition number>``, where a job is one epoch of one feed. An *attempt* is Spark's task
attempt id, which grows from each launch to the next. One attempt at a time may publish rows of a partition, at one node. When a
newer one comes, the node of the older one is asked to shut it out (*fence*) and to say how many rows it had published; only then
may the newer one begin, behind those rows::

    (new) --open--> ACTIVE --open by a newer attempt--> FENCING --fenced--> ACTIVE (behind the watermark)
                      |                                    |
                      +--done by the active attempt--> DONE <--done of the attempt being fenced
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from tfos_fast.channel.proof import Proof


class State(Enum):
    """Of one partition."""

    ACTIVE = auto()
    FENCING = auto()
    DONE = auto()


@dataclass(frozen=True)
class Grant:
    """The attempt may publish rows from number ``skip`` on."""

    node: str
    key: str
    attempt: int
    skip: int
    proof: Proof = Proof()  # noqa: RUF009  # frozen


@dataclass(frozen=True)
class Refuse:
    """The attempt may not publish: a newer one has the partition."""

    node: str
    key: str
    attempt: int
    text: str


@dataclass(frozen=True)
class AskFence:
    """The node is to shut out attempts older than ``attempt``; its answer goes to :meth:`Ledger.fenced`."""

    node: str
    key: str
    attempt: int


Action = Grant | Refuse | AskFence


#: Partitions of jobs that are not over. An entry takes some 300 bytes of the driver's memory.
MOST_PARTITIONS = 1 << 24


@dataclass
class _Entry:
    node: str
    attempt: int
    watermark: int = 0
    proof: Proof = Proof()  # noqa: RUF009  # of the rows up to the watermark
    state: State = State.ACTIVE
    waiting: tuple[str, int] | None = None  # (node, attempt) that gets the partition after the fence


@dataclass
class Ledger:
    """The book of one cluster. Methods return what is to be done, in order."""

    entries: dict[str, _Entry] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)  # prefixes of keys whose job is over
    _fencing: set[str] = field(default_factory=set)  # keys in this state: few, where the entries may be millions

    def open(self, node: str, key: str, attempt: int) -> list[Action]:
        """An attempt asks to publish a partition at a node."""
        if key.rpartition("/")[0] in self.closed:
            return [Refuse(node, key, attempt, f"attempt {attempt} at partition {key} comes after the end of its job")]
        entry = self.entries.get(key)
        if entry is None and len(self.entries) >= MOST_PARTITIONS:
            return [Refuse(node, key, attempt, f"partition {key} is one too many: a feed may have {MOST_PARTITIONS}; coalesce it")]
        if entry is None:
            self.entries[key] = _Entry(node, attempt)
            return [Grant(node, key, attempt, 0)]
        newest = entry.waiting[1] if entry.waiting else entry.attempt
        if attempt < newest:
            return [Refuse(node, key, attempt, f"attempt {attempt} at partition {key} was replaced by attempt {newest}")]
        if entry.state is State.DONE:
            # The whole partition is skipped. The attempt becomes the owner, so that a still newer one asks the same way.
            entry.node, entry.attempt = node, attempt
            return [Grant(node, key, attempt, entry.watermark, entry.proof)]
        actions: list[Action] = []
        if entry.waiting and entry.waiting[1] < attempt:
            old_node, old = entry.waiting
            actions.append(Refuse(old_node, key, old, f"attempt {old} at partition {key} was replaced by attempt {attempt}"))
        entry.waiting = (node, attempt)
        if entry.state is State.ACTIVE:
            entry.state = State.FENCING
            self._fencing.add(key)
        # Asked again even if a fence is under way: the first one may be lost with its connection, and fencing twice is harmless.
        actions.append(AskFence(entry.node, key, attempt))
        return actions

    def fenced(self, node: str, key: str, attempt: int, watermark: int, proof: Proof = Proof()) -> list[Action]:  # noqa: B008
        """A node answers the fence for ``attempt``: rows published there, counted from the partition's beginning."""
        entry = self.entries.get(key)
        if entry is None or entry.state is not State.FENCING or entry.waiting is None:
            return []
        if entry.node != node or entry.waiting[1] != attempt:
            # The answer to an older fence: since then that node may have published more. The newest fence has been asked, too.
            return []
        if watermark > entry.watermark:
            entry.watermark, entry.proof = watermark, proof
        (entry.node, entry.attempt), entry.waiting = entry.waiting, None
        entry.state = State.ACTIVE
        self._fencing.discard(key)
        return [Grant(entry.node, key, entry.attempt, entry.watermark, entry.proof)]

    def done(self, node: str, key: str, attempt: int, rows: int, proof: Proof = Proof()) -> list[Action]:  # noqa: B008
        """An attempt has published all rows of its partition. Word of an attempt that was fenced is old and ignored."""
        entry = self.entries.get(key)
        if entry is None or entry.node != node or entry.attempt != attempt or entry.state is State.DONE:
            return []
        entry.watermark, entry.proof = rows, proof
        entry.state = State.DONE
        self._fencing.discard(key)
        if entry.waiting is None:
            return []
        (entry.node, entry.attempt), entry.waiting = entry.waiting, None
        return [Grant(entry.node, key, entry.attempt, rows, proof)]

    def fences_at(self, node: str) -> list[AskFence]:
        """The fences that this node has not answered, for a node that has connected anew."""
        return [
            AskFence(node, key, entry.waiting[1])
            for key, entry in ((key, self.entries[key]) for key in sorted(self._fencing))
            if entry.node == node and entry.waiting
        ]

    def published(self, prefix: str) -> tuple[int, int]:
        """Partitions ``<prefix>/...`` that are known to be published whole, and their rows."""
        done = [
            entry.watermark for key, entry in self.entries.items() if key.startswith(prefix + "/") and entry.state is State.DONE
        ]
        return len(done), sum(done)

    def close(self, prefix: str) -> None:
        """The job that fed the partitions ``<prefix>/...`` is over: refuse stragglers, and forget its entries."""
        self.closed.add(prefix)
        keys = [key for key in self.entries if key.rpartition("/")[0] == prefix]
        for key in keys:
            del self.entries[key]
        self._fencing.difference_update(keys)
