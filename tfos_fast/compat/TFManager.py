"""Queues and values in a process of their own, fed by hand: for unit tests of ``map_fun`` without Spark.

On a cluster nothing goes this way: ``ctx.mgr`` there stands for the node's shared memory. The process is Python's own
``multiprocessing.managers``; who connects must have the authkey.
"""

from __future__ import annotations

import queue
from collections.abc import Iterable
from multiprocessing.managers import BaseManager
from typing import Any

from tfos_fast.cluster.protocol.keys import ClusterKeys
from tfos_fast.compat.values import as_proxy
from tfos_fast.errors import ClusterError

_queues: dict[str, queue.Queue[Any]] = {}
_values: dict[str, Any] = {}


def _fill(queues: Iterable[str]) -> None:
    """In the manager's process, as it begins."""
    _queues.clear()
    _values.clear()
    _queues.update((name, queue.Queue()) for name in queues)


def _names() -> list[str]:
    return sorted(_queues)


def _queue(name: str) -> queue.Queue[Any]:
    return _queues[name]


def _get(key: str) -> list[Any]:
    return [_values.get(key)]


def _set(key: str, value: Any) -> None:
    _values[key] = value


class TFManager(BaseManager):
    """A handle on the queues; see :func:`start` and :func:`connect`."""

    def get_queue(self, name: str) -> Any:
        """A queue with put, get, task_done, join, empty and qsize.

        Raises
        ------
        ClusterError
            It was not among the names given to :func:`start`.
        """
        names = self._names()._getvalue()  # type: ignore[attr-defined]
        if name not in names:
            raise ClusterError(f"this manager has no queue {name!r}, but {', '.join(names) or 'none'}: name it in start(queues=)")
        return self._queue(name)  # type: ignore[attr-defined]

    def get(self, key: str) -> Any:
        """What was set under this key, or None. ``str()`` of a text has quotes: ``str(mgr.get("state")) == "'running'"``."""
        return as_proxy(self._get(key)._getvalue()[0])  # type: ignore[attr-defined]

    def set(self, key: str, value: Any) -> None:
        """Keep a value for every process that is connected."""
        self._set(key, value)  # type: ignore[attr-defined]


TFManager.register("_names", callable=_names)
TFManager.register("_queue", callable=_queue)
TFManager.register("_get", callable=_get)
TFManager.register("_set", callable=_set)


def start(authkey: bytes, queues: Iterable[str], mode: str = "local") -> TFManager:
    """Start a process with these queues.

    Parameters
    ----------
    authkey : bytes
        Whoever connects needs it.
    queues : iterable of str
    mode : {"local", "remote"}
        ``remote``: on a TCP port, for other hosts, too.

    Returns
    -------
    TFManager
        The process ends with it (or by its ``shutdown()``).
    """
    if mode not in ("local", "remote"):
        raise ValueError(f"mode is 'local' or 'remote', not {mode!r}")
    key = authkey.encode() if isinstance(authkey, str) else bytes(authkey)
    manager = TFManager(address=("", 0), authkey=key) if mode == "remote" else TFManager(authkey=key)
    manager.start(_fill, (list(queues),))
    return manager


def connect(address: Any, authkey: bytes) -> TFManager:
    """A handle on a manager that was started elsewhere: its ``address``, and its authkey.

    Raises
    ------
    ClusterError
        These are of ``cluster_info``: nodes of ``TFCluster.run`` have no such manager.
    """
    if isinstance(authkey, ClusterKeys):
        raise ClusterError(
            "a node of TFCluster.run has no manager to connect to. In map_fun use ctx.mgr; rows go there by cluster.train() or "
            "cluster.inference(), and cluster.shutdown() stops every node, a ps too"
        )
    key = authkey.encode() if isinstance(authkey, str) else bytes(authkey)
    manager = TFManager(address=tuple(address) if isinstance(address, list) else address, authkey=key)
    manager.connect()
    return manager
