"""Rows of an inference that were handed out and have no result yet, and which results belong to which of them.

Any thread may give results. They go back to the feeder of a stream in the order of its rows, so results that come before those of
earlier rows wait here.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

PIPELINE = 0  # stands for all threads that Python did not start, such as those of tf.data


_numbers = itertools.count(1)
_mine = threading.local()


def this_thread() -> int:
    """A number of the calling thread, which no later thread gets; ``PIPELINE`` for one that Python did not start."""
    number: int | None = getattr(_mine, "number", None)
    if number is None:
        foreign = isinstance(threading.current_thread(), threading._DummyThread)
        number = _mine.number = PIPELINE if foreign else next(_numbers)
    return number


@dataclass(slots=True)
class _Rows:
    """Rows of one stream that one thread was handed without a break."""

    stream: int | None  # None: rows of training, whose results nobody wants
    rows: int
    owner: int  # the thread
    results: list[Any] = field(default_factory=list)  # with parts of results: all rows have theirs


class Owed:
    """Decides whose results a thread gives.

    A thread that was handed rows gives the results of its own rows. A thread that was handed none gives those of the oldest rows
    without a result, whoever read them. So does every thread while rows lie in a pipeline, whose threads Python did not start.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[_Rows] = deque()  # in the order of handing out
        self._open: dict[int, int] = {}  # thread -> its rows without a result
        self._unwanted = 0  # of these, rows of training
        self._early = 0  # entries in the queue that have their results, and wait for older ones
        self._answers_training = False

    @property
    def rows(self) -> int:
        """Rows whose results are wanted and were not given."""
        with self._lock:
            return sum(self._open.values()) - self._unwanted

    def owe(self, origin: Sequence[tuple[int | None, int]]) -> None:
        """The calling thread was handed rows: (stream, rows) in order; no stream for rows whose results nobody wants."""
        owner = this_thread()
        with self._lock:
            for stream, rows in origin:
                last = self._queue[-1] if self._queue else None
                if last is not None and last.stream == stream and last.owner == owner and not last.results:
                    last.rows += rows
                else:
                    self._queue.append(_Rows(stream, rows, owner))
                self._open[owner] = self._open.get(owner, 0) + rows
                if stream is None:
                    self._unwanted += rows

    def forgive(self) -> None:
        """No more results are expected."""
        with self._lock:
            self._queue.clear()
            self._open.clear()
            self._unwanted = self._early = 0

    def answer(self, results: Any, hand_on: deque[tuple[int, Any]]) -> None:
        """The calling thread gives results; what can go back now is appended to ``hand_on``: (stream, results).

        Raises
        ------
        ValueError
            There are more results than rows without one that this thread may answer.
        """
        count = len(results)
        with self._lock:
            if not count:
                return
            if len(self._open) == 1 and not (self._unwanted or self._early):
                self._answer_oldest(results, count, hand_on)
                return
            chosen = self._choose(count)
            at = 0
            for entry in chosen:
                used = min(entry.rows, count - at)
                if used < entry.rows:
                    self._split(entry, used)
                self._give(entry, results[at : at + used])
                at += used
            self._release(hand_on)

    def _answer_oldest(self, results: Any, count: int, hand_on: deque[tuple[int, Any]]) -> None:
        """One thread was handed all rows that have no result."""
        ((owner, waiting),) = self._open.items()
        if count > waiting:
            raise ValueError(f"{count} results for {waiting} rows that have none yet; give one result per row")
        at = 0
        while at < count:
            entry = self._queue[0]
            used = min(entry.rows, count - at)
            if used < entry.rows:
                entry.rows -= used
            else:
                self._queue.popleft()
            assert entry.stream is not None
            hand_on.append((entry.stream, results[at : at + used]))
            at += used
        self._take_off(owner, count)

    def _choose(self, count: int) -> list[_Rows]:
        """The entries that so many results of the calling thread are for."""
        me = this_thread()
        mine, oldest = self._open.get(me, 0), next(self._unanswered(), None)
        alone = bool(mine) and me != PIPELINE and PIPELINE not in self._open
        if alone and count > mine and oldest is not None and oldest.owner == me:
            alone = False  # it read the first rows itself, and leaves the others to another thread
        candidates = [entry for entry in self._unanswered() if not alone or entry.owner == me]
        wanted = [entry for entry in candidates if entry.stream is not None]
        if not self._answers_training and sum(entry.rows for entry in wanted) >= count:
            candidates = wanted  # a program that has given none for rows of training means the rows of inference
        waiting = sum(entry.rows for entry in candidates)
        if count > waiting:
            whose = " that this thread was handed, and" if alone else ""
            raise ValueError(f"{count} results for {waiting} rows{whose} that have none yet; give one result per row")
        chosen = []
        for entry in candidates:
            if count <= 0:
                break
            chosen.append(entry)
            count -= entry.rows
        return chosen

    def _unanswered(self) -> Iterator[_Rows]:
        return (entry for entry in self._queue if not entry.results)

    def _split(self, entry: _Rows, rows: int) -> None:
        """Leave the entry with so many rows; the others come behind it."""
        at = next(i for i, each in enumerate(self._queue) if each is entry)
        self._queue.insert(at + 1, _Rows(entry.stream, entry.rows - rows, entry.owner))
        entry.rows = rows

    def _give(self, entry: _Rows, results: Any) -> None:
        entry.results.append(results)
        self._early += 1
        self._take_off(entry.owner, entry.rows)
        if entry.stream is None:
            self._unwanted -= entry.rows
            self._answers_training = True

    def _release(self, hand_on: deque[tuple[int, Any]]) -> None:
        """Hand on the results that no earlier row of their stream waits for."""
        kept: deque[_Rows] = deque()
        waits = set()
        for entry in self._queue:
            if entry.results and entry.stream not in waits:
                self._early -= 1
                if entry.stream is not None:
                    hand_on.append((entry.stream, entry.results[0]))
                continue
            waits.add(entry.stream)
            kept.append(entry)
        self._queue = kept

    def _take_off(self, owner: int, rows: int) -> None:
        self._open[owner] -= rows
        if not self._open[owner]:
            del self._open[owner]
