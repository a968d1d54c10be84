"""Which threads of a program hold rows while another thread asks whether to stop.

A program may read in one thread and train in another. When the last row was handed out, the reading thread still holds rows, and so
does the pipeline of tf.data behind it. A training thread that stopped then would lose them.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from tfos_fast.channel.reader.owed import PIPELINE, this_thread

PATIENCE_S = 600.0  # a thread that has not come back by then keeps nobody from stopping


class Pipelines(Protocol):
    """What knows the pipelines that read a feed by threads of their own."""

    def note(self) -> None:
        """The calling thread of a pipeline was handed rows."""

    def may_hold_rows(self) -> bool:
        """Whether a pipeline may still hold rows, now that all were handed out."""


class ReadAhead:
    """The threads that were handed rows.

    Attributes
    ----------
    pipelines : Pipelines, optional
        Without one, a pipeline that has read may always hold rows.
    last : int
        The thread that was noted last, as ``threading.get_ident`` names it; -1 for none.
    """

    def __init__(self) -> None:
        self.last = -1
        self.pipelines: Pipelines | None = None
        self._lock = threading.Lock()
        self._readers: dict[int, threading.Thread] = {}  # that have not learnt of the end
        self._knowing: set[int] = set()
        self._turns = 0  # times that another thread went on reading
        self._first: dict[int, int] = {}  # thread -> its first turn
        self._latest: dict[int, int] = {}  # thread -> its last turn
        self._asked = 0  # times that a thread was put off
        self._since = 0.0

    def note(self, *, pipelines_only: bool = False) -> None:
        """The calling thread was handed rows."""
        me = this_thread()
        if pipelines_only and me != PIPELINE:
            return
        with self._lock:
            self.last = threading.get_ident()
            self._readers[me] = threading.current_thread()
            self._turns += 1
            self._first.setdefault(me, self._turns)
            self._latest[me] = self._turns
        if me == PIPELINE and self.pipelines is not None:
            self.pipelines.note()

    def learn(self) -> None:
        """The calling thread got the end of the feed in place of rows."""
        with self._lock:
            self._learn(this_thread())

    def may_stop(self, rows: int) -> bool:
        """Whether the calling thread may stop, now that all rows were handed out.

        A thread that reads may stop at once. Another one may stop when each thread that reads has come back for more and learnt of
        the end. A thread that has not read since a new thread began to read counts as one that does not read: programs take a first
        batch to learn its shapes, and leave the rest to another thread.

        Rows in a pipeline of tf.data do not come back: the program stops when the pipeline tells its own end, so a thread
        that asks in every step gets False, until the program has dropped its iterators over pipelines. ``rows`` that were handed
        out bound the number of these steps.
        """
        me = this_thread()
        with self._lock:
            if me == PIPELINE or me in self._knowing:
                return True
            piped = PIPELINE in self._readers
            if not piped:
                newest = max(self._first.values(), default=0)
                reading = {each: thread for each, thread in self._readers.items() if self._latest[each] >= newest}
                if me in reading:
                    self._learn(me)
                    return True
                # The system gives the name of a thread that has ended to another one, which may read in its place.
                lives = any(thread.ident == self.last for thread in threading.enumerate())
                if not lives and not any(thread.is_alive() for thread in reading.values()):
                    return True
            elif self._asked >= rows:
                return True
            self._since = self._since or time.monotonic()
            self._asked += 1
            if time.monotonic() - self._since > PATIENCE_S:
                return True
        # Without the lock: the garbage collector may run what asks again.
        return piped and self.pipelines is not None and not self.pipelines.may_hold_rows()

    def _learn(self, thread: int) -> None:
        self.last = -1
        if thread != PIPELINE:
            self._readers.pop(thread, None)
            self._knowing.add(thread)
