"""How many steps the rows published to a node are good for, counted by its broker just as its reader will cut them. Pure.

The broker counts rather than the reader, because the trainer may be busy in a step while the nodes agree on later ones. The reader
cuts whole batches out of each lane, collects the tails of lanes that have ended, and gives what is less than a batch only when
nothing more is in sight (*settle*). So the number follows from how many rows came in which lane, and in what order lanes ended.
"""

from __future__ import annotations

from tfos_fast.channel.protocol.lockstep import Pace


class StepCount:
    """The steps of one epoch after the other at one node.

    Parameters
    ----------
    pace : Pace

    Attributes
    ----------
    rows : int
        Published in this epoch.
    """

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.next_epoch()

    def next_epoch(self) -> None:
        """Begin with the rows of the next epoch."""
        self.rows = 0
        self._before: list[tuple[int, int]] = []  # (batches, rows in them) up to each settle
        self._batches = 0  # whole ones since then
        self._tails: dict[int, int] = {}  # open lane -> rows that are less than a batch
        self._carry = 0  # rows of tails of lanes that have ended
        self._since = 0  # rows since then
        self._first = 0  # steps before the batches that are counted here
        self._first_rows = 0  # and the rows in them

    def published(self, lane: int, rows: int) -> None:
        """Rows came in a lane."""
        self.rows += rows
        self._since += rows
        tail = self._tails.get(lane, 0) + rows
        self._batches += tail // self.pace.batch
        self._tails[lane] = tail % self.pace.batch

    def kept(self, rows: int) -> None:
        """Rows that the reader deals out to itself; it has all of them, and counts them at once when it settles."""
        self.rows += rows
        self._since += rows

    def ended(self, lane: int) -> None:
        """A lane has ended."""
        self._carry += self._tails.pop(lane, 0)
        self._batches += self._carry // self.pace.batch
        self._carry %= self.pace.batch

    def settle(self) -> None:
        """Nothing more is in sight: the tails become batches, the last of which may be short."""
        batches, left = divmod(self._since, self.pace.batch)
        if left and not self.pace.drop:
            self._before.append((batches + 1, self._since))
        elif batches:
            self._before.append((batches, batches * self.pace.batch))
        self._batches = self._carry = self._since = 0
        self._tails.clear()

    def reopen(self, agreed: int) -> None:
        """Rows may come after all, for steps behind those agreed on: in these a node that pads has had its turn."""
        if self.pace.uneven == "pad":
            self._first = max(self.steps, agreed)
            self._first_rows = self.rows
            self._before.clear()

    @property
    def steps(self) -> int:
        """Steps of this epoch that this node can do."""
        whole, left = divmod(self._elements, self.pace.group)
        # What is less than a step of all replicas is filled up with padding, or left unused.
        return self._first + whole + (left > 0 and self.pace.uneven == "pad" and not self._since)

    def used(self, steps: int) -> int:
        """Rows in the first ``steps`` steps."""
        if steps < self._first:
            return 0 if not self._first else self._first_rows * steps // self._first  # padded in between: about so many
        left = (steps - self._first) * self.pace.group
        used = self._first_rows
        for batches, rows in self._before:
            if left < batches:
                return used + left * self.pace.batch
            left -= batches
            used += rows
        return used + min(left, self._whole) * self.pace.batch

    @property
    def _elements(self) -> int:
        return sum(batches for batches, _ in self._before) + self._whole

    @property
    def _whole(self) -> int:
        """Batches that the rows since the last settle are good for."""
        if not self.pace.window:
            return self._batches
        # A window gives a batch whenever it is full.
        full = max(self.pace.window, self.pace.batch)
        return (self._since - full) // self.pace.batch + 1 if self._since >= full else 0
