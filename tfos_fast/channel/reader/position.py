"""How far the program has come with its rows, as its reader sees it: lane by lane, in the order of handing out. Pure."""

from __future__ import annotations

import threading
from collections import deque

_MOST_NOTES = 1 << 10  # that wait to be put together
_MOST_RUNS = 1 << 16  # that can be told apart; nobody reads further ahead of the program
_EPOCHS = 3  # of so many the counts are kept, when nobody will ask for more


class Trail:
    """Rows that were handed out since the last commit.

    Who reads ahead of the program notes what it takes, and asks for the counts of the rows that the program has by now; it may be
    another thread.

    Attributes
    ----------
    epoch : int
        Ends of an epoch that were come by.
    total : int
        Rows noted so far, those of earlier commits included.
    keep : bool
        False: nothing is kept of epochs that have long ended.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.total = 0
        self.keep = True
        self._counts: dict[int, dict[int, int]] = {0: {}}  # epoch -> lane -> rows, of those before the runs
        self._folded = 0
        self._lock = threading.RLock()
        self._runs: deque[tuple[int, int]] = deque()  # (lane, rows) in order
        self._notes: deque[tuple[int, int]] = deque()  # the same, of what lies behind the runs

    def note(self, lane: int, rows: int) -> None:
        """Rows of the lane are handed out next. Only one thread at a time may say so."""
        self._notes.append((lane, rows))  # without the lock, which would cost a small batch as much as its cutting
        self.total += rows
        if len(self._notes) > _MOST_NOTES:
            with self._lock:
                self._put_together()

    def _put_together(self) -> None:
        """Make runs of the notes so far."""
        notes, runs = self._notes, self._runs
        for _ in range(len(notes)):
            lane, rows = notes.popleft()
            if runs and runs[-1][0] == lane:
                runs[-1] = (lane, runs[-1][1] + rows)
            else:
                runs.append((lane, rows))
        while len(runs) > _MOST_RUNS:
            self._settle(self._folded + runs[0][1])

    def end_epoch(self) -> None:
        """An end of an epoch lies behind the rows so far."""
        with self._lock:
            self._put_together()
            self.epoch += 1
            self._counts[self.epoch] = {}
            if not self.keep:
                self._counts.pop(self.epoch - _EPOCHS, None)

    def counts(self, rows: int) -> dict[int, int]:
        """Lane -> how many of the first so many rows it had, since the last commit.

        Raises
        ------
        ValueError
            So far back nothing can be told apart any more.
        """
        with self._lock:
            self._put_together()
            if rows < self._folded:
                raise ValueError(f"{self._folded - rows} rows behind these were handed out long ago, or committed")
            out: dict[int, int] = {}
            for counts in self._counts.values():
                for lane, many in counts.items():
                    out[lane] = out.get(lane, 0) + many
            left = rows - self._folded
            for lane, many in self._runs:
                if left <= 0:
                    break
                out[lane] = out.get(lane, 0) + min(many, left)
                left -= many
            return out

    def settle(self, rows: int) -> None:
        """Nobody will go back to before the first so many rows."""
        with self._lock:
            self._put_together()
            self._settle(rows)

    def _settle(self, rows: int) -> None:
        counts = self._counts[self.epoch]
        while self._runs and self._folded < rows:
            lane, many = self._runs[0]
            used = min(many, rows - self._folded)
            counts[lane] = counts.get(lane, 0) + used
            self._folded += used
            if used < many:
                self._runs[0] = (lane, many - used)
            else:
                self._runs.popleft()

    def committed(self, rows: int) -> None:
        """A commit covers the first so many rows."""
        with self._lock:
            self.settle(rows)
            self._counts = {self.epoch: {}}
