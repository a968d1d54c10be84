"""``DataFeed`` with TensorFlowOnSpark's names: over a node's shared memory, or over queues fed by hand."""

from __future__ import annotations

import math
import queue
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from tfos_fast.compat.manager import NodeManager
from tfos_fast.compat.marker import EndPartition, Marker
from tfos_fast.errors import RoleError

_GLANCE_S = 0.5


class HandFed:
    """Rows from a manager's queues: None ends the feed, ``EndPartition`` a partition."""

    def __init__(self, mgr: Any, train_mode: bool, qname_in: str, qname_out: str) -> None:
        self._mgr = mgr
        self._train = train_mode
        self._in = mgr.get_queue(qname_in)
        self._qname_out = qname_out
        self._ended = False

    def next_batch(self, n: int) -> list[Any]:
        rows: list[Any] = []
        while len(rows) < n and not self._ended:
            try:
                row = self._in.get(True, _GLANCE_S)  # another thread may meet the end
            except queue.Empty:
                continue
            self._in.task_done()
            if row is None:
                self._ended = True
            elif not isinstance(row, Marker):
                rows.append(row)
            elif isinstance(row, EndPartition) and rows and not self._train:
                break
        return rows

    def should_stop(self) -> bool:
        return self._ended

    def batch_results(self, results: Any) -> None:
        out = self._mgr.get_queue(self._qname_out)  # who trains has none
        for result in results:
            out.put(result, True)

    def terminate(self) -> None:
        self._mgr.set("state", "terminating")
        self._ended = True
        while True:
            try:
                self._in.get(False)
            except queue.Empty:
                return
            self._in.task_done()


class NotFed:
    """Stands for the feed of a node that gets no rows, such as a ps: making it is no error, reading it is."""

    def __init__(self, error: RoleError) -> None:
        self._error = error

    def next_batch(self, n: int) -> NoReturn:
        raise self._error

    def batch_results(self, results: Any) -> NoReturn:
        raise self._error

    def should_stop(self) -> bool:
        return False

    def terminate(self) -> None:
        pass

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._error


def take_apart(rows: list[Any], columns: list[str], tensors: list[str]) -> dict[str, list[Any]]:
    """Rows as a dict tensor -> values: by name where rows have these columns as names, else by position."""
    if not rows:
        return {tensor: [] for tensor in tensors}
    first = rows[0]
    names = first if isinstance(first, dict) else getattr(first, "__fields__", ())
    if all(column in names for column in columns):
        return {tensor: [row[column] for row in rows] for column, tensor in zip(columns, tensors, strict=True)}
    return {tensor: [row[i] for row in rows] for i, tensor in enumerate(tensors)}


def _each(results: Any) -> Any:
    """What iteration gives, where our own feed would take it as columns, or make Python numbers of it."""
    if hasattr(results, "numpy") and hasattr(results, "shape"):
        results = results.numpy()
    if type(results) is np.ndarray and results.ndim > 1:
        return results  # its rows are arrays
    if type(results) is list or isinstance(results, str | bytes) or hasattr(results, "columns"):
        return results  # a text is refused, a DataFrame has a dict for each row
    return list(results)


class DataFeed:
    """The rows of a node, and the way back of results.

    Any number of threads may use it at the same time. At a node that gets no rows, such as a ps, reading it is an error.

    Parameters
    ----------
    mgr : object
        ``ctx.mgr``, or a manager of :func:`tfos_fast.compat.TFManager.start` whose queues are fed by hand.
    train_mode : bool
        False for inference: every row needs a result.
    qname_in, qname_out : str
        ``"input"`` is the cluster's feed; another name is one that ``cluster.train(..., qname=)`` offers. In inference all names
        mean the same.
    input_mapping : dict, optional
        Column -> tensor name. Batches are then dicts tensor name -> list, the values of a row being in the order of the sorted
        column names.

    Attributes
    ----------
    feed : tfos_fast.tf.feed.DataFeed
        Our own feed below this one, with tensors, datasets and nodes in step; on queues fed by hand only its own methods. It is
        opened when it is first used.
    """

    def __init__(
        self,
        mgr: Any,
        train_mode: bool = True,
        qname_in: str = "input",
        qname_out: str = "output",
        input_mapping: Mapping[str, str] | None = None,
    ) -> None:
        self.mgr = mgr
        self.train_mode = train_mode
        self.qname_in = qname_in
        self.qname_out = qname_out
        self._node = isinstance(mgr, NodeManager)
        self._feed: Any = None
        self._next: Callable[[int], list[Any]] | None = None
        if self._node:
            mgr.expect(train_mode, qname_in)
        else:
            self._feed = HandFed(mgr, train_mode, qname_in, qname_out)
        self._columns = None if input_mapping is None else sorted(input_mapping)
        self.input_tensors = None if input_mapping is None else [input_mapping[column] for column in sorted(input_mapping)]

    @property
    def feed(self) -> Any:
        if self._feed is None:
            try:
                self._feed = self.mgr.feed(self.train_mode, self.qname_in)
            except RoleError as error:  # programs make their feed before they look at their role
                self._feed = NotFed(error)
        return self._feed

    @property
    def queue_in(self) -> Any:
        """The queue that the rows come from."""
        return self.mgr.get_queue(self.qname_in)

    @property
    def queue_out(self) -> Any:
        """The queue that results go to."""
        return self.mgr.get_queue(self.qname_out)

    @property
    def done_feeding(self) -> bool:
        """Whether the feed has ended."""
        ended: bool = self.feed.should_stop()
        return ended

    def should_stop(self) -> bool:
        """Whether the feed has ended and every row was handed out."""
        ended: bool = self.feed.should_stop()
        return ended

    def next_batch(self, batch_size: float) -> Any:
        """The next rows as they were fed, or a dict of columns with ``input_mapping``.

        Waits for ``batch_size`` rows. Fewer come at the end of the feed, and in inference also when the open partitions have ended.
        """
        if self._next is None:
            self._next = self.feed.next_batch
        size = batch_size if type(batch_size) is int else math.ceil(batch_size)  # what a division gives is a float
        rows = self._next(size) if size > 0 else []  # as in the original
        if self._columns is None:
            return rows
        assert self.input_tensors is not None
        return take_apart(rows, self._columns, self.input_tensors)

    def batch_results(self, results: Any) -> None:
        """One result for each row handed out, in the same order: a list or other iterable, or an array with a row for each.

        They go back at once, also while another thread waits in ``next_batch``. Each is what the iterable gives: of an array of
        one dimension, numpy's numbers. A tensor counts as an array.
        """
        self.feed.batch_results(_each(results) if self._node else results)

    def terminate(self) -> None:
        """Want no more rows: the feed job ends soon, and what is queued is dropped."""
        self.feed.terminate()
        if self._node and (self.qname_in == "input" or not self.train_mode):
            self.mgr.set("state", "terminating")
