"""Who delivers which partition, and how far: the book behind exactly-once delivery. Pure: no I/O, no clock.

A *partition* is named by a key, ``<job>/<partition number>``, where a job is one epoch of one feed. An *attempt* is Spark's task
attempt id, which grows from each launch to the next. One attempt at a time may publish rows of a partition, at one node. When a
newer one comes, the node of the older one is asked to shut it out (*fence*) and to say how far it has come; only then may the newer
one begin, behind those rows::

    (new) --open--> ACTIVE --open by a newer attempt--> FENCING --fenced--> ACTIVE (behind the watermark)
                      |                                    |
                      +--done by the active attempt--> DONE <--done of the attempt being fenced

When a node's trainer is started again, rows that the life before had got and that no checkpoint covers are *lost*: they are to be
published once more. So a partition has a list of spans that are yet to be published, at first one, from row 0 to its end. An
attempt gets the first of them, and skips what lies before. While spans are left and no attempt has one, the partition is IDLE::

    ACTIVE, FENCING, DONE --lost--> IDLE --open--> ACTIVE --done with its span--> IDLE, or DONE when it was the last one

An answer to an attempt can be too late: its task is dead, or its node's trainer. What its node then tells is of an older attempt,
which had other rows. So a node names the attempt that published the rows it tells of, and they count for that one alone: an attempt
that its node does not name has published nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from tfos_fast.channel.codec.fingerprint import Proof
from tfos_fast.channel.protocol.row_spans import OPEN, Reached, Span, join, without


class PartitionState(Enum):
    """Of one partition."""

    ACTIVE = auto()
    FENCING = auto()
    IDLE = auto()
    DONE = auto()


@dataclass(frozen=True)
class Grant:
    """The attempt may publish rows from number ``skip`` on, up to number ``stop``."""

    node: str
    key: str
    attempt: int
    skip: int
    proof: Proof = Proof()  # noqa: RUF009  # frozen
    stop: int = OPEN


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


def number_of(key: str) -> int | None:
    """The number of a partition by its key; None for a key that no task of ours has. Who holds the cluster's key may invent it."""
    number = key.rpartition("/")[2]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 20 else None


def _numbers(keys: Iterable[str]) -> set[int]:
    return {number for number in map(number_of, keys) if number is not None and number < MOST_PARTITIONS}


@dataclass
class _Entry:
    node: str
    attempt: int
    active: Span | None = None  # what the attempt publishes
    todo: list[Span] = field(default_factory=list)  # what nobody publishes now
    rows: int = 0  # of the partition, once it was published to its end
    proof: Proof = Proof()  # noqa: RUF009  # of the rows before the active attempt's
    whole: bool = False  # it was published to its end while its node took rows
    proven: bool = True  # the rows before were delivered in order, so that there is a proof of them
    state: PartitionState = PartitionState.ACTIVE
    waiting: tuple[str, int] | None = None  # (node, attempt) that gets the partition after the fence


@dataclass
class Ledger:
    """The book of one cluster. Methods return what is to be done, in order."""

    entries: dict[str, _Entry] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)  # prefixes of keys whose job is over
    reopened: set[str] = field(default_factory=set)  # prefixes whose job was over, and that have entries for rows lost since
    _fencing: set[str] = field(default_factory=set)  # keys in this state: few, where the entries may be millions
    _lost: dict[str, set[str]] = field(default_factory=dict)  # prefix -> keys of which rows were lost, and not all published since

    def open(self, node: str, key: str, attempt: int) -> list[Action]:
        """An attempt asks to publish a partition at a node."""
        entry, prefix = self.entries.get(key), key.rpartition("/")[0]
        if prefix in self.closed or (entry is None and prefix in self.reopened):
            return [Refuse(node, key, attempt, f"attempt {attempt} at partition {key} comes after the end of its job")]
        if entry is None and len(self.entries) >= MOST_PARTITIONS:
            return [Refuse(node, key, attempt, f"partition {key} is one too many: a feed may have {MOST_PARTITIONS}; coalesce it")]
        if entry is None:
            entry = self.entries[key] = _Entry(node, attempt, todo=[(0, OPEN)])
            return [self._grant(key, entry)]
        newest = entry.waiting[1] if entry.waiting else entry.attempt
        if attempt < newest:
            return [Refuse(node, key, attempt, f"attempt {attempt} at partition {key} was replaced by attempt {newest}")]
        if entry.state is PartitionState.IDLE and (entry.node, entry.attempt) == (node, attempt):
            # It asks again, its node having connected anew. It was answered before, and may have done with that, or its reader is
            # dead: what is left is for a further job.
            return [Grant(node, key, attempt, entry.rows, entry.proof, entry.rows)]
        if entry.state in (PartitionState.DONE, PartitionState.IDLE):
            # Of a DONE one the whole partition is skipped. The attempt becomes the owner, so that a still newer one asks the same
            # way.
            entry.node, entry.attempt = node, attempt
            return [self._grant(key, entry)]
        actions: list[Action] = []
        if entry.waiting and entry.waiting[1] < attempt:
            old_node, old = entry.waiting
            actions.append(Refuse(old_node, key, old, f"attempt {old} at partition {key} was replaced by attempt {attempt}"))
        entry.waiting = (node, attempt)
        if entry.state is PartitionState.ACTIVE:
            entry.state = PartitionState.FENCING
            self._fencing.add(key)
        # Asked again even if a fence is under way: the first one may be lost with its connection, and fencing twice is harmless.
        actions.append(AskFence(entry.node, key, attempt))
        return actions

    def fenced(self, node: str, key: str, attempt: int, reached: Reached, proof: Proof = Proof()) -> list[Action]:  # noqa: B008
        """A node answers the fence for ``attempt``: how far the last attempt has come that was opened there."""
        entry = self.entries.get(key)
        if entry is None or entry.state is not PartitionState.FENCING or entry.waiting is None:
            return []
        if entry.node != node or entry.waiting[1] != attempt:
            # The answer to an older fence: since then that node may have published more. The newest fence has been asked, too.
            return []
        own = self._own(entry)
        left = self._stop(entry, reached, proof)
        if own and left:
            # It may have the answer to its first question, and publish: it is given the same rows, whatever was lost elsewhere.
            entry.todo, lost = [left], without(entry.todo, [left])
            actions = self._next(key, entry)
            entry.todo = lost
            return actions
        return self._next(key, entry)

    def done(
        self,
        node: str,
        key: str,
        attempt: int,
        rows: int,
        proof: Proof = Proof(),  # noqa: B008
        *,
        eats: bool = True,
    ) -> list[Action]:
        """An attempt has published all rows of its span, up to this number. Of an attempt that was fenced this is ignored.

        ``eats``: whether its node takes rows; else some may have been dropped.
        """
        entry = self.entries.get(key)
        if entry is None or entry.node != node or entry.attempt != attempt or entry.active is None:
            return []
        if entry.active[1] == OPEN:
            entry.rows, entry.proof = rows, proof if entry.proven else Proof()
        entry.active, entry.whole = None, eats
        if self._own(entry):
            entry.waiting = None  # it has the answer to its first question
        if entry.todo:
            self._lost.setdefault(key.rpartition("/")[0], set()).add(key)  # the attempt knows of no other span
        return self._next(key, entry)

    def lost(self, node: str, published: dict[str, Reached], spans: dict[str, list[Span]]) -> list[Action]:
        """The node's trainer is gone, and nobody publishes at that node any more.

        Parameters
        ----------
        node : str
        published : dict
            Key -> how far the last attempt had come that was opened there, of every partition that was not published to its end.
        spans : dict
            Key -> rows that were published there and are to come once more.
        """
        actions: list[Action] = []
        for key in sorted(set(published) | set(spans)):
            prefix = key.rpartition("/")[0]
            entry = self.entries.get(key)
            if entry is None:
                if not spans.get(key):
                    continue
                # Its job is over, so that all else was delivered.
                if prefix in self.closed:
                    self.closed.discard(prefix)
                    self.reopened.add(prefix)
                entry = self.entries[key] = _Entry("", -1, rows=max(end for _, end in spans[key]), state=PartitionState.DONE)
            stopped = entry.node == node and entry.active is not None and key in published
            if stopped:
                self._stop(entry, published[key], Proof())
            if spans.get(key):
                entry.todo = join(entry.todo, spans[key])
                entry.proof, entry.proven = Proof(), False
                self._lost.setdefault(prefix, set()).add(key)
            if stopped or entry.state is PartitionState.DONE:
                actions += self._next(key, entry)
        return actions

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
            entry.rows for key, entry in self.entries.items() if key.startswith(prefix + "/") and entry.state is PartitionState.DONE
        ]
        return len(done), sum(done)

    def unfinished(self, prefix: str) -> frozenset[int]:
        """The numbers of the job's partitions of which rows were lost, and not all published since."""
        return frozenset(_numbers(self._lost.get(prefix, ())))

    def whole(self, prefix: str) -> set[int]:
        """The numbers of the job's partitions that were published to their end while their node took rows."""
        begin = prefix + "/"
        entries = self.entries.items()
        return _numbers(
            key for key, entry in entries if key.startswith(begin) and entry.state is PartitionState.DONE and entry.whole
        )

    def is_new(self, key: str) -> bool:
        """Whether the partition is of a job that is not over, and no attempt at it has come yet."""
        prefix, entry = key.rpartition("/")[0], self.entries.get(key)
        if prefix in self.closed or prefix in self.reopened:
            return False
        return entry is None or entry.attempt < 0

    def node_of(self, key: str) -> str:
        """Where the last attempt at a partition was; empty: nowhere."""
        entry = self.entries.get(key)
        return entry.node if entry is not None else ""

    def cover(self, prefix: str, spans: dict[int, list[Span]]) -> None:
        """Of these partitions of a job that has not begun, these rows are not to be published: an earlier application had them."""
        for number, covered in spans.items():
            todo = without([(0, OPEN)], covered)
            self.entries[f"{prefix}/{number}"] = _Entry("", -1, todo=todo, proven=False, state=PartitionState.IDLE)

    def close(self, prefix: str) -> None:
        """The job that fed the partitions ``<prefix>/...`` is over: refuse stragglers, and forget its entries."""
        self.closed.add(prefix)
        self.reopened.discard(prefix)
        keys = [key for key in self.entries if key.rpartition("/")[0] == prefix]
        for key in keys:
            del self.entries[key]
        self._fencing.difference_update(keys)
        self._lost.pop(prefix, None)

    def _grant(self, key: str, entry: _Entry) -> Grant:
        """The owner gets the first span, or, when none is left, the end of the partition."""
        skip = stop = entry.rows
        if entry.todo:
            skip, stop = entry.active = entry.todo.pop(0)
            entry.state = PartitionState.ACTIVE
        elif key.rpartition("/")[0] not in self.reopened:
            stop = OPEN  # of a job that was over, it is not known where the partition ends
        return Grant(entry.node, key, entry.attempt, skip, entry.proof, stop)

    @staticmethod
    def _own(entry: _Entry) -> bool:
        """Whether who waits is the active attempt itself, which has asked again when its node had connected anew."""
        return entry.waiting == (entry.node, entry.attempt)

    def _stop(self, entry: _Entry, reached: Reached, proof: Proof) -> Span | None:
        """The active attempt publishes no more, and its node says how far the last one has come that was opened there.

        Returns what it has left of its span.
        """
        if entry.active is None:
            return None
        begin, end = entry.active
        opened, row = reached
        if opened == entry.attempt and row > begin:  # otherwise its own answer came too late, and it has published nothing
            begin, entry.proof = row, proof if entry.proven else Proof()
        entry.active = None
        entry.todo = join([(begin, end)], entry.todo)
        return begin, end

    def _next(self, key: str, entry: _Entry) -> list[Action]:
        """Nobody publishes the partition: who waits for it gets what is left of it."""
        self._fencing.discard(key)
        entry.state = PartitionState.IDLE if entry.todo else PartitionState.DONE
        if not entry.todo:
            prefix = key.rpartition("/")[0]
            self._lost.get(prefix, set()).discard(key)
        if entry.waiting is None:
            return []
        (entry.node, entry.attempt), entry.waiting = entry.waiting, None
        return [self._grant(key, entry)]
