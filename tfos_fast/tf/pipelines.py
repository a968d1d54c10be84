"""Whether a pipeline of tf.data may still hold rows of a feed: as long as the program has an iterator over a dataset that read it.

TensorFlow is not imported here. Its inner parts are looked at with care: an iterator of which too little is known may hold rows.
"""

from __future__ import annotations

import gc
import sys
import time
import types
import weakref
from collections.abc import Iterator
from typing import Any

_FREE_S = 3.0  # seconds that looking may take in all; after that it takes at most one part in so many of the time:
_SHARE = 4
_SURE_S = 2.0  # seconds, at least, for which iterators that have as many references as before count as in use, as before
_KINDS = (
    ("tensorflow.python.data.ops.iterator_ops", "OwnedIterator"),
    ("tensorflow.python.data.ops.multi_device_iterator_ops", "OwnedMultiDeviceIterator"),
)
_STATE = "generator_state"  # a variable of Dataset.from_generator: one object for each dataset
_DEEPEST = 40  # frames, and functions within functions


class Pipelines:
    """The iterators of this process whose datasets have read one feed."""

    def __init__(self) -> None:
        self._generators: weakref.WeakSet[Any] = weakref.WeakSet()  # of the datasets that have read the feed
        self._read_otherwise = False
        self._iterators: list[weakref.ref[Any]] | None = None
        self._in_use: set[tuple[int, ...]] = set()  # numbers of references with which the iterators were found in use
        self._spent = self._sure_until = self._next_look = 0.0  # seconds

    def note(self) -> None:
        """The calling thread, one of tf.data, was handed rows: remember for which dataset."""
        frame: types.FrameType | None = sys._getframe(1)
        for _ in range(_DEEPEST):
            if frame is None:
                break
            if _STATE in frame.f_code.co_freevars:
                self._generators.add(frame.f_locals[_STATE])
                return
            frame = frame.f_back
        self._read_otherwise = True

    def may_hold_rows(self) -> bool:
        """False when no iterator is left. True where this cannot be told: in a graph of TensorFlow 1 the graph has the iterator.

        To be called when all rows were handed out. An iterator that only the garbage collector can free counts as gone, unless
        looking has taken too long before.
        """
        kinds = self._kinds()
        if not kinds:
            return True
        begin = time.monotonic()
        if self._iterators is None:  # later ones find no rows
            self._iterators = [weakref.ref(each) for each in gc.get_objects() if type(each) in kinds and self._may_have_read(each)]
            self._count(begin)
        counts = self._references()
        if not counts or begin < self._next_look or (counts in self._in_use and begin < self._sure_until):
            return bool(counts)
        gc.collect()  # Keras 3 leaves the iterator of fit() in a cycle
        self._count(begin)
        counts = self._references()
        self._in_use.add(counts)
        self._sure_until = begin + max(_SURE_S, 20 * (time.monotonic() - begin))
        return bool(counts)

    def _count(self, begin: float) -> None:
        took = time.monotonic() - begin
        self._spent += took
        if self._spent > _FREE_S:
            self._next_look = begin + _SHARE * took

    def _references(self) -> tuple[int, ...]:
        """How many references there are to each iterator that is left. A program that leaves its loop drops some."""
        return tuple(sys.getrefcount(each) for ref in self._iterators or () if (each := ref()) is not None)

    def _may_have_read(self, iterator: Any) -> bool:
        if self._read_otherwise:
            return True
        try:
            return any(each is None or each in self._generators for each in _generators(iterator._dataset))
        except (AttributeError, TypeError, NotImplementedError):
            return True

    @staticmethod
    def _kinds() -> set[type]:
        """Empty where the calling thread builds a graph, or TensorFlow has no such iterators."""
        eager = getattr(sys.modules.get("tensorflow"), "executing_eagerly", None)
        if eager is None or not eager():
            return set()
        found = (getattr(sys.modules.get(module), name, None) for module, name in _KINDS)
        return {kind for kind in found if kind is not None}


def _generators(dataset: Any) -> Iterator[Any]:
    """What ``from_generator`` has made for each generator that a dataset reads; None for a part whose origin is not known."""
    waiting, seen = [dataset], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        waiting += each._inputs()
        if type(each).__name__ in ("_VariantDataset", "_GeneratorDataset"):
            yield None
        for wrapper in each._functions():
            if hasattr(wrapper.output_structure, "_element_spec"):  # it makes datasets, as that of from_generator does
                yield _state(wrapper._func)


def _state(function: Any, depth: int = 0) -> Any:
    """The ``generator_state`` of a function of ``from_generator``; None for any other function."""
    if not isinstance(function, types.FunctionType) or not function.__module__.startswith("tensorflow.") or depth > _DEEPEST:
        return None
    inner = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    if _STATE in inner:
        return inner[_STATE].cell_contents
    return next((found for cell in inner.values() if (found := _state(cell.cell_contents, depth + 1)) is not None), None)
