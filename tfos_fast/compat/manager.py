"""``ctx.mgr`` on a node: what a manager's methods mean where rows come through shared memory."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from typing import Any, NoReturn

from tfos_fast.cluster.trainer.context import Context
from tfos_fast.compat.queues import Named, Results, Rows, own_queue
from tfos_fast.compat.values import Values, as_proxy
from tfos_fast.errors import ClusterError, RoleError

_OF_A_PS = "control"  # a queue that a ps has beside those of the cluster
_ON_THE_WAY_S = 10.0  # for what the queue says that it has


class NodeManager:
    """Stands for the manager in ``map_fun``: the feed as a queue, and values that live as long as the process."""

    def __init__(self, context: Context, queues: tuple[str, ...]) -> None:
        self._context = context
        self._names = queues
        own = {_OF_A_PS, *queues} - {"input", "output"}
        self._queues: dict[str, Any] = {name: own_queue() for name in own}  # now, as processes may be forked that share them
        self._queues |= {name: Named(self._queues[name], context, name) for name in own - {"error", _OF_A_PS}}
        self._queues |= {"input": Rows(self), "output": Results(self)}
        self._values = Values({"state": "running"})
        self._lock = threading.RLock()
        self._expects = self._infers = False
        self._inputs: dict[int, Any] = {}  # process -> its feed of rows for training or inference

    def expect(self, train_mode: bool, qname: str) -> None:
        """A ``DataFeed`` is made. Programs make several on one queue: if one is for inference, all give results."""
        self._check(qname)
        self._expects = True
        self._infers = self._infers or not train_mode

    def feed(self, train_mode: bool, qname: str) -> Any:
        """Our own feed of that name; for rows of training and inference it is one."""
        self._check(qname)
        if qname != "input" and train_mode:  # named feeds are for training and validation
            return self._context.get_data_feed(name=qname)
        with self._lock:
            if self.input_feed is None:
                self._inputs[os.getpid()] = self._context.get_data_feed(train_mode and not self._infers)
            return self.input_feed

    @property
    def input_feed(self) -> Any:
        """The feed of rows for training or inference that this process has opened, or None."""
        return self._inputs.get(os.getpid())

    def get_queue(self, qname: str) -> Any:
        """``input``: its ``get`` takes a row, None at the end. ``output``: its ``put`` gives a result.

        Others are plain queues, which forked processes share, and have the rows of ``cluster.train(qname=)``, too.
        What is put into ``error`` fails the node when ``map_fun`` has returned.
        """
        if qname != _OF_A_PS:
            self._check(qname)
        return self._queues[qname]

    def hold(self) -> NoReturn:
        """Serve others until the driver stops this node."""
        self._context.hold()

    def get(self, key: str) -> Any:
        """What was set under this key, or None. ``str()`` of a text has quotes: ``str(mgr.get("state")) == "'running'"``."""
        return as_proxy(self._values.get(key))

    def set(self, key: str, value: Any) -> None:
        """Keep a value, for forked processes, too. ``"state"`` set to ``"terminating"`` ends the feed, as ``terminate()`` does."""
        self._values.set(key, value)
        if (key, value) == ("state", "terminating") and self._expects:
            with contextlib.suppress(RoleError):  # a ps has none to end
                self.feed(True, "input").terminate()

    def check_errors(self) -> None:
        """Called when ``map_fun`` has returned.

        Raises
        ------
        ClusterError
            The program has put something into the queue ``error``. With TensorFlowOnSpark this fails the job, too.
        """
        told = self._queues.get("error")
        if told is not None and told.qsize():
            try:
                what = told.get(timeout=_ON_THE_WAY_S)
            except queue.Empty:
                what = "(a value that cannot be pickled)"
            raise ClusterError(f"map_fun put this into the queue 'error': {what}")

    def _check(self, qname: str) -> None:
        if qname not in self._names:
            raise ClusterError(
                f"this cluster has no queue {qname!r}, but {', '.join(self._names)}: name it in TFCluster.run(queues=)"
            )
