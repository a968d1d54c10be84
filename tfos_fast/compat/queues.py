"""The queues of ``ctx.mgr`` on a node: the feed row by row, the way back of results, and queues of the program's own."""

from __future__ import annotations

import multiprocessing
import queue
import time
from typing import Any, Protocol

from tfos_fast.cluster.protocol.roles import FED
from tfos_fast.cluster.trainer.context import Context
from tfos_fast.errors import ClusterError, NotThere

_TURN_S = 0.05  # for the rows of a queue, before its own items are looked at again


class Feeds(Protocol):
    """The manager, which knows its feeds."""

    @property
    def input_feed(self) -> Any: ...

    def feed(self, train_mode: bool, qname: str) -> Any: ...


def own_queue() -> Any:
    """A queue that this process shares with those that are forked from it, as TensorFlowOnSpark's are shared."""
    try:
        made = multiprocessing.get_context("fork").JoinableQueue()
    except OSError:  # no semaphores: no /dev/shm
        return queue.Queue()
    made.cancel_join_thread()  # what nobody has read must not hold up the end; forked processes wait for it
    return made


class _Fed:
    """What queues of rows have in common. The end of the feed is one None, and then nothing comes any more."""

    _told = False

    def _row(self, feed: Any, deadline: float | None) -> Any:
        """The next row, or None for the end.

        Raises
        ------
        queue.Empty
            There is none until the deadline, or the end was told before.
        """
        rows = feed.next_batch(1) if deadline is None else feed.reader.next_rows(1, deadline)
        if rows:
            return rows[0]
        if deadline is not None and (self._told or not feed.reader.ended):
            raise queue.Empty
        self._told = True
        return None

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        raise NotImplementedError

    def get_nowait(self) -> Any:
        return self.get(False)

    def full(self) -> bool:
        return False

    def task_done(self) -> None:
        pass  # the channel knows by itself which rows were taken

    join = task_done


def _deadline(block: bool, timeout: float | None) -> float | None:
    if not block:
        return time.monotonic()
    return None if timeout is None else time.monotonic() + timeout


class Rows(_Fed):
    """The feed, row by row."""

    def __init__(self, manager: Feeds) -> None:
        self._manager = manager

    @property
    def _feed(self) -> Any:
        return self._manager.feed(True, "input")

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return self._row(self._feed, _deadline(block, timeout))

    def empty(self) -> bool:
        ended: bool = self._feed.should_stop()
        return ended

    def qsize(self) -> int:
        """1 until the feed has ended: how many rows will come is not known."""
        return int(not self.empty())

    def put(self, row: Any, block: bool = True, timeout: float | None = None) -> None:
        raise NotThere(
            "rows come into the queue 'input' by cluster.train() or cluster.inference() alone. To end the feed, call terminate() "
            "of the DataFeed; for what map_fun has to tell itself, name a queue in TFCluster.run(queues=)"
        )


class Results:
    """The way back: each result that is put belongs to the oldest row without one."""

    def __init__(self, manager: Feeds) -> None:
        self._manager = manager

    def put(self, result: Any, block: bool = True, timeout: float | None = None) -> None:
        feed = self._manager.input_feed
        if feed is None:
            raise ClusterError(
                "results go back for rows that were taken: open the feed first, by ctx.get_data_feed(train_mode=False)"
            )
        feed.batch_results([result])

    def put_nowait(self, result: Any) -> None:
        self.put(result)

    def empty(self) -> bool:
        return True  # they go back at once

    def full(self) -> bool:
        return False

    def qsize(self) -> int:
        return 0

    def task_done(self) -> None:
        pass

    join = task_done


class Named(_Fed):
    """A queue of the program's own, which also has the rows that ``cluster.train(qname=)`` offers under its name."""

    def __init__(self, own: Any, context: Context, name: str) -> None:
        self._own = own
        self._context = context
        self._name = name

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if self._context.job_name not in FED:
            return self._own.get(block, timeout)
        deadline = _deadline(block, timeout)
        feed = self._context.get_data_feed(name=self._name)
        while True:
            try:
                return self._own.get(False)
            except queue.Empty:
                pass
            turn = time.monotonic() + _TURN_S
            last = deadline is not None and deadline <= turn
            try:
                return self._row(feed, deadline if last else turn)
            except queue.Empty:
                if last:
                    raise
                if self._told:
                    return self._own.get(block, None if deadline is None else max(0.0, deadline - time.monotonic()))

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._own.put(item, block, timeout)

    def put_nowait(self, item: Any) -> None:
        self._own.put(item)

    def empty(self) -> bool:
        empty: bool = self._own.empty()
        return empty

    def qsize(self) -> int:
        size: int = self._own.qsize()
        return size
