"""Steps in common: how a reader wants them, and its side of the agreement on how many there are. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Positive = Annotated[int, msgspec.Meta(ge=1, le=2**40)]


class Pace(msgspec.Struct, frozen=True):
    """How a reader goes in step with those of other nodes.

    Parameters
    ----------
    uneven : str
        What becomes of nodes that have fewer rows: ``"stop"`` ends an epoch for all when the first of them has no more,
        ``"pad"`` when the last one has none.
    batch : int
        Rows in a batch.
    group : int
        Batches in a step (one for each replica of the node).
    window : int
        Rows of the shuffle window; 0: none.
    drop : bool
        A short batch is left out.
    """

    uneven: Literal["stop", "pad"]
    batch: Positive
    group: Positive = 1
    window: Annotated[int, msgspec.Meta(ge=0, le=2**40)] = 0
    drop: bool = False


class Gate:
    """How many batches the reader may hand out. Word of an epoch may come before the reader has got there.

    Attributes
    ----------
    epoch : int
        That the reader is in.
    done : int
        Batches that were handed out in it.
    """

    def __init__(self, pace: Pace, epoch: int = 0) -> None:
        self.pace = pace
        self.epoch = epoch
        self.done = 0
        self._agreed: dict[int, tuple[int, bool]] = {}  # epoch -> steps, and whether that is all

    def agree(self, epoch: int, steps: int, end: bool) -> None:
        """All nodes can do so many steps of the epoch; ``end``: and no more."""
        if epoch >= self.epoch and not self._agreed.get(epoch, (0, False))[1]:
            self._agreed[epoch] = (max(steps, self._agreed.get(epoch, (0, False))[0]), end)

    @property
    def room(self) -> int:
        """Batches that may be handed out now."""
        return self._agreed.get(self.epoch, (0, False))[0] * self.pace.group - self.done

    @property
    def over(self) -> bool:
        """Whether this was the epoch's last step."""
        return self._agreed.get(self.epoch, (0, False))[1] and not self.room

    @property
    def state(self) -> tuple[int, int, bool]:
        """Changes when something was agreed on."""
        return (self.epoch, *self._agreed.get(self.epoch, (0, False)))

    def next_epoch(self) -> None:
        """The reader has come to the end of an epoch."""
        self._agreed.pop(self.epoch, None)
        self.epoch += 1
        self.done = 0
