"""How many rows were published to a reader and taken by it, over all its lives. Pure.

Of a life that is over only those rows count that do not come again: the others count when they have come.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Tally:
    """Rows of all feeds, or of one.

    Attributes
    ----------
    number : int
        Of the feed.
    published, taken : int
        They differ by what waits for the reader, or what it has left.
    unused : int
        Of those that were taken, how many were in no step.
    settled : int
        Of those that were taken, how many do not come again when the reader dies.
    """

    number: int = 0
    published: int = 0
    taken: int = 0
    unused: int = 0
    settled: int = 0

    def begin_anew(self) -> None:
        """The reader is dead: what was not settled comes once more."""
        self.published = self.taken = self.settled
