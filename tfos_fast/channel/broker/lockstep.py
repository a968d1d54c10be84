"""The broker's part in going in step: it counts what its reader could do, tells it what all nodes can do, and ends epochs early.

In a cluster the node agent carries the count to the coordinator and its word back. A channel of its own agrees with itself.
"""

from __future__ import annotations

from collections.abc import Callable

from tfos_fast.channel.broker.step_count import StepCount
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.protocol.lockstep import Pace


class NodeSteps:
    """Steps of one feed at one node.

    Parameters
    ----------
    to_reader : callable
        Puts a message behind everything queued for the reader.

    Attributes
    ----------
    alone : bool
        There is no other node.
    changed : bool
        The count is another than was told; whoever tells it takes this back.
    dropping : bool
        The reader wants no more rows of this epoch.
    """

    def __init__(self, to_reader: Callable[[m.Message], None]) -> None:
        self.alone = True
        self.changed = False
        self.dropping = False
        self.epoch = 0
        self.turn = 0  # of the settle that was done last; 0: rows have come since, or may
        self.on_pace: Callable[[Pace], None] = lambda pace: None
        self._to_reader = to_reader
        self._count: StepCount | None = None
        self._early: list[tuple[int, int]] | None = []  # what came before the reader: lanes and rows; no rows: its end
        self._agreed = 0
        self._over = False
        self._ended = False  # nothing more comes

    def successor(self) -> NodeSteps:
        """For the next reader: as at first."""
        other = NodeSteps(self._to_reader)
        other.alone, other.on_pace = self.alone, self.on_pace
        return other

    @property
    def ready(self) -> int:
        """Steps of this epoch that the published rows are good for."""
        return self._count.steps if self._count is not None else 0

    @property
    def in_common(self) -> bool:
        """Whether the reader goes in step with those of other nodes."""
        return self._count is not None and not self.alone

    def declare(self, pace: Pace) -> None:
        """The reader goes in step."""
        if self._count is None:
            self._count = StepCount(pace)
            for lane, rows in self._early or ():
                (self._count.published(lane, rows) if rows else self._count.ended(lane))
            self._early = None
            self.on_pace(pace)
            self._say()
            if self._ended:
                self.end()

    def opened(self) -> None:
        """A reader is there: if it has not said so before, it does not go in step."""
        self._early = None

    def published(self, lane: int, rows: int) -> None:
        """Rows for the reader."""
        if self._count is not None:
            self._count.published(lane, rows)
            self._say()
        elif self._early is not None:
            self._early.append((lane, rows))

    def kept(self, rows: int) -> None:
        """Rows that the reader deals out to itself."""
        if self._count is not None:
            self._count.kept(rows)
            self._say()

    def ended(self, lane: int) -> None:
        """A lane has ended."""
        if self._count is not None:
            self._count.ended(lane)
            self._say()
        elif self._early is not None:
            self._early.append((lane, 0))

    def settle(self, epoch: int, turn: int) -> None:
        """No more rows are in sight: the reader makes batches of what it has."""
        if self._count is not None and epoch == self.epoch:
            if turn != self.turn:
                self._count.settle()
                self._to_reader(m.Settle())
            self.turn = turn
            self._say()

    def reopen(self) -> None:
        """A partition comes to this node."""
        if self._count is not None and self.turn:
            self.turn = 0
            self._count.reopen(self._agreed)
            self._say()

    def agree(self, epoch: int, steps: int, end: bool) -> None:
        """All nodes can do so many steps; ``end``: and no more."""
        if epoch == self.epoch:
            self._agreed, self._over = max(self._agreed, steps), end
            self._to_reader(m.Steps(epoch, self._agreed, end))

    def left(self, epoch: int) -> None:
        """The reader has done all steps of an epoch: what comes of it still is dropped."""
        if epoch == self.epoch:
            self.dropping = True

    def end_epoch(self) -> int:
        """Before the mark that ends an epoch. How many of its rows were in no step."""
        unused = 0
        self.end()
        if self._count is not None:
            if self._over:
                unused = self._count.rows - self._count.used(self._agreed)
            self._count.next_epoch()
            self.changed = True
        self.epoch += 1
        self.turn = self._agreed = 0
        self._over = self.dropping = self._ended = False
        return unused

    def end(self) -> None:
        """Nothing more comes in this epoch."""
        self._ended = True
        if self.alone and not self._over:
            self.settle(self.epoch, self.turn + 1)
            if self._count is not None:
                self.agree(self.epoch, self._count.steps, True)

    def _say(self) -> None:
        self.changed = True
        if self.alone and not self._over:
            self.agree(self.epoch, self.ready, False)


__all__ = ["NodeSteps"]
