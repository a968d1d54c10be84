"""Values of a manager, as programs know them from TensorFlowOnSpark, whose managers are processes of their own and gave proxies."""

from __future__ import annotations

import fcntl
import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Text(str):
    """A text that is equal to itself without quotes, and that ``str()``, ``format`` and ``print`` show in quotes, as a proxy does.

    Programs compare ``str(mgr.get("state"))`` with ``"'terminating'"``.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return str.__repr__(self)

    def __format__(self, spec: str) -> str:
        return format(str.__repr__(self), spec)

    def _getvalue(self) -> str:
        """The text itself; proxies have this."""
        return str.__getitem__(self, slice(None))


def as_proxy(value: Any) -> Any:
    """A text as ``Text``; anything else as it is."""
    return Text(value) if type(value) is str else value


class Values:
    """Values by key, which this process shares with those that are forked from it. They must be picklable."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._memory = open(os.memfd_create("tfos-values"), "r+b", buffering=0)  # noqa: SIM115  # shared for good
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._write(values)

    def get(self, key: str) -> Any:
        """What was set under this key, or None."""
        with self._locked():
            return self._read().get(key)

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        with self._locked():
            self._write(self._read() | {key: value})

    def _read(self) -> dict[str, Any]:
        self._memory.seek(0)
        values: dict[str, Any] = pickle.loads(self._memory.read())
        return values

    def _write(self, values: dict[str, Any]) -> None:
        data = pickle.dumps(values)
        self._memory.seek(0)
        self._memory.truncate()
        self._memory.write(data)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._owner != os.getpid():  # a thread of the parent may have held the lock at the fork
            self._lock, self._owner = threading.Lock(), os.getpid()
        with self._lock:
            fcntl.lockf(self._memory, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._memory, fcntl.LOCK_UN)
