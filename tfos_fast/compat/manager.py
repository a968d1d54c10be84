"""``ctx.mgr`` on a node: what a manager's methods mean where rows come through shared memory."""

from __future__ import annotations

import functools
import queue
import threading
from typing import Any, NoReturn

from tfos_fast.cluster.context import Context
from tfos_fast.compat.values import as_proxy
from tfos_fast.errors import ClusterError


class NodeManager:
    """Stands for the manager in ``map_fun``: the feed as a queue, and values that live as long as the process."""

    def __init__(self, context: Context, queues: tuple[str, ...]) -> None:
        self._context = context
        self._names = queues
        self._queues: dict[str, Any] = {}
        self._values: dict[str, Any] = {"state": "running"}
        self._lock = threading.RLock()
        self._last: Any = None
        self._input: Any = None

    def feed(self, train_mode: bool, qname: str) -> Any:
        """Our own feed of that name."""
        self._check(qname)
        ours = qname == "input" or not train_mode  # named feeds are for training and validation
        with self._lock:
            self._last = self._context.get_data_feed(train_mode, name="" if ours else qname)
            if ours:
                self._input = self._last
            return self._last

    def get_queue(self, qname: str) -> Any:
        """``input``: its ``get`` takes a row, None at the end. ``output``: its ``put`` gives a result. Others are plain queues.

        What is put into ``error`` fails the node when ``map_fun`` has returned.
        """
        self._check(qname)
        with self._lock:
            if qname not in self._queues:
                made = {"input": _Rows, "output": _Results}.get(qname)
                self._queues[qname] = made(self) if made else queue.Queue()
            return self._queues[qname]

    def hold(self) -> NoReturn:
        """Serve others until the driver stops this node."""
        self._context.hold()

    def get(self, key: str) -> Any:
        """What was set under this key, or None. ``str()`` of a text has quotes: ``str(mgr.get("state")) == "'running'"``."""
        return as_proxy(self._values.get(key))

    def set(self, key: str, value: Any) -> None:
        """Keep a value in this process. ``"state"`` set to ``"terminating"`` ends the feed, as ``terminate()`` does."""
        self._values[key] = value
        if (key, value) == ("state", "terminating") and self._input is not None:
            self._input.terminate()

    def check_errors(self) -> None:
        """Called when ``map_fun`` has returned.

        Raises
        ------
        ClusterError
            The program has put something into the queue ``error``. With TensorFlowOnSpark this fails the job, too.
        """
        told = self._queues.get("error")
        if told is not None and not told.empty():
            raise ClusterError(f"map_fun put this into the queue 'error': {told.get()}")

    def _check(self, qname: str) -> None:
        if qname not in self._names:
            raise ClusterError(
                f"this cluster has no queue {qname!r}, but {', '.join(self._names)}: name it in TFCluster.run(queues=)"
            )


class _Rows:
    """The feed, row by row."""

    def __init__(self, manager: NodeManager) -> None:
        self._manager = manager

    @functools.cached_property
    def _feed(self) -> Any:
        return self._manager._last or self._manager.feed(True, "input")

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        rows = self._feed.next_batch(1)
        return rows[0] if rows else None

    def empty(self) -> bool:
        return self._feed.should_stop()

    def task_done(self) -> None:
        pass  # the channel knows by itself which rows were taken

    join = task_done


class _Results:
    def __init__(self, manager: NodeManager) -> None:
        self._manager = manager

    def put(self, result: Any, block: bool = True, timeout: float | None = None) -> None:
        feed = self._manager._last
        if feed is None:
            raise ClusterError(
                "results go back for rows that were taken: open the feed first, by ctx.get_data_feed(train_mode=False)"
            )
        feed.batch_results([result])
