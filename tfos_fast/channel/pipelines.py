"""Whether a pipeline of tf.data may still hold rows: as long as the program has an iterator over it."""

from __future__ import annotations

import gc
import sys
import time
import weakref
from typing import Any

_FREE_S = 3.0  # seconds that looking may take in all; after that it takes at most one part in so many of the time:
_SHARE = 4
_KINDS = (
    ("tensorflow.python.data.ops.iterator_ops", "OwnedIterator"),
    ("tensorflow.python.data.ops.multi_device_iterator_ops", "OwnedMultiDeviceIterator"),
)


class Pipelines:
    """The iterators over datasets that this process has."""

    def __init__(self) -> None:
        self._iterators: list[weakref.ref[Any]] = []
        self._spent = self._next_look = 0.0  # seconds

    def may_hold_rows(self) -> bool:
        """False when no iterator is left. True where this cannot be told: in a graph of TensorFlow 1 the graph has the iterator.

        An iterator that only the garbage collector can free counts as gone, unless looking has taken too long before.
        """
        kinds = self._kinds()
        if not kinds:
            return True
        begin = time.monotonic()
        if not self._alive():
            self._iterators = [weakref.ref(each) for each in gc.get_objects() if type(each) in kinds]
        elif begin < self._next_look:
            return True
        if self._alive():
            gc.collect()  # Keras 3 leaves the iterator of fit() in a cycle
        took = time.monotonic() - begin
        self._spent += took
        if self._spent > _FREE_S:
            self._next_look = begin + _SHARE * took
        return self._alive()

    def _alive(self) -> bool:
        return any(ref() is not None for ref in self._iterators)

    @staticmethod
    def _kinds() -> set[type]:
        """Empty where the calling thread builds a graph, or TensorFlow has no such iterators."""
        eager = getattr(sys.modules.get("tensorflow"), "executing_eagerly", None)
        if eager is None or not eager():
            return set()
        found = (getattr(sys.modules.get(module), name, None) for module, name in _KINDS)
        return {kind for kind in found if kind is not None}
