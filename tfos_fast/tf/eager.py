"""Datasets that an eager loop reads without a pipeline of TensorFlow's.

An element of ``tf.data`` costs 130 us and more of processor time, whatever it holds, and one that Python makes 0.5 ms. A loop
``for x, y in dataset:`` outside of a ``tf.function`` needs none of that: the batch lies in shared memory already. So the dataset
stays a ``tf.data.Dataset`` for all that looks into it (``map``, ``fit``, ``tf.distribute``, a ``tf.function``), and its iterator
becomes one of TensorFlow's as soon as somebody asks for its resource; ``next()`` in Python takes the shorter way until then.

Both ways take batches from one source, which knows how far the epoch is, so an iterator may go over from one to the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from typing import Any


def read_directly(tf: Any, dataset: Any, batches: Callable[[], Generator[Any, None, None]], go_over: Callable[[], None]) -> Any:
    """The same dataset, whose iterators take their elements from ``batches()`` as long as an eager loop reads them.

    Parameters
    ----------
    tf : module
        TensorFlow.
    dataset : tf.data.Dataset
        Just made, and in nobody else's hands: its class is changed.
    batches : callable
        Makes the elements of one iterator, as tensors of the dataset's ``element_spec``; begins nothing before the first one is
        asked for.
    go_over : callable
        Called when an iterator that was read so becomes one of TensorFlow's.
    """
    kind = type(dataset)

    class Direct(kind):  # type: ignore[misc, valid-type]
        def __iter__(self) -> Any:
            return _iterator_class(tf)(self, batches(), go_over) if tf.executing_eagerly() else super().__iter__()

    Direct.__name__, Direct.__qualname__, Direct.__doc__ = kind.__name__, kind.__qualname__, kind.__doc__
    dataset.__class__ = Direct
    return dataset


@functools.cache
def _iterator_class(tf: Any) -> Any:
    # Of an iterator, since the class of eager ones has no public name; a function that is traced takes no other kind.
    real: Any = type(iter(tf.data.Dataset.range(0)))

    class DirectIterator(real):  # type: ignore[misc]  # the class is known only when TensorFlow runs
        """Hands elements to Python, and becomes one of TensorFlow's for whoever wants more than that."""

        def __init__(self, dataset: Any, batches: Generator[Any, None, None], go_over: Callable[[], None]) -> None:
            # What ``real.__init__`` sets, the resource before all, is missing until it is asked for: see ``__getattr__``.
            self._tfos_dataset, self._tfos_batches, self._tfos_go_over = dataset, batches, go_over
            self._tfos_began = False

        def __next__(self) -> Any:
            if not tf.executing_eagerly():
                return next(self._become_real())
            self._tfos_began = True
            return next(self._tfos_batches)

        @property
        def element_spec(self) -> Any:
            return self._tfos_dataset.element_spec

        def _become_real(self) -> Any:
            if self._tfos_began:
                self._tfos_go_over()
            self._tfos_batches.close()
            self.__class__ = real
            with tf.init_scope():  # a function that is being traced would make an iterator of its own
                real.__init__(self, self._tfos_dataset)
            return self

        def __getattr__(self, name: str) -> Any:
            if name.startswith(("_tfos", "__")):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return getattr(self._become_real(), name)

    return DirectIterator
