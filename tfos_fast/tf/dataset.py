"""The feed as a ``tf.data.Dataset``: batches or, where they are small, several batches at a time, which TensorFlow takes apart.

That is what ``map``, ``fit`` or ``tf.distribute`` see; a loop in Python gets its batches without all this (``eager.py``).

An element that Python hands to tf.data costs 0.5 ms of processor time, whatever its size. A large batch is therefore one element,
and aliases its slot. Small batches lie together in a chunk of shape ``(batches, batch_size, ...)``, also aliased, and
``Dataset.unbatch`` cuts its first dimension in compiled code, which copies each batch once more: cheaper up to about a megabyte.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterator
from threading import Lock
from typing import Any

import numpy as np

from tfos_fast.channel.reader.batch import AnyBatch, Batch, Source
from tfos_fast.channel.reader.reader import Reader
from tfos_fast.channel.reader.shuffle_window import Window
from tfos_fast.tf.eager import read_directly
from tfos_fast.tf.progress import Handed
from tfos_fast.values.aligned import Values
from tfos_fast.values.ragged import Ragged

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 22  # what a chunk may have: a slot
SMALL_BATCH = 1 << 20  # bytes; copying much more costs as much as an element of its own
MOST_BATCHES = 64


class Shuffled:
    """A reader's rows through a shuffle window. What an iterator leaves in the window is for the next one.

    Parameters
    ----------
    reader : Reader
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = Lock()
        self._ended = False  # the epoch's rows are all in the window
        self._settled = False  # as far as is in sight
        self._window = Window(1, np.random.default_rng(), most_held=reader.segment.n_slots // 2)

    @property
    def waiting_rows(self) -> int:
        """Rows that were taken from the feed and not drawn."""
        return self._window.waiting_rows

    def source(self, n: int, rows: int, seed: int | None, timeout: float | None) -> Source:
        """Batches of ``n`` rows from a window of ``rows``. Each epoch is shuffled anew."""
        random = np.random.default_rng(seed)

        def draw(most: int) -> AnyBatch | None:
            with self._lock:
                self._window.configure(rows, random)
                return self._draw(n, most, timeout)

        return draw

    def clear(self) -> None:
        """Drop the window's rows; the reader was told to terminate, so that no thread waits here."""
        with self._lock:
            self._window.clear()
            self._ended = self._settled = False

    def _draw(self, n: int, most: int, timeout: float | None) -> AnyBatch | None:
        while True:
            drawn = self._window.draw(n, most, last=self._ended or self._settled)
            if drawn is not None:
                return Batch(*drawn)
            self._settled = False
            if self._ended:
                self._ended = False
                return None
            run = self._reader.next_batch(n, epoch_ends=True, timeout=timeout, runs=True)
            if run is None:
                self._ended = True
            elif not run.rows:
                self._settled = self._reader.settle()
                if not self._settled:
                    return Batch({}, 0)
            else:
                self._window.push(run.columns, run.rows, held=run.aliased)


def batches_at_once(specs: dict[str, Any], batch_size: int, prefetch: int) -> int:
    """How many batches make a chunk; 1: a batch is an element.

    Parameters
    ----------
    specs : dict
        Column name -> ``tf.TensorSpec`` of a batch.
    batch_size, prefetch : int
        With ``prefetch=0`` nothing may be read ahead, and a chunk is just that.
    """
    size = 0
    for spec in specs.values():
        shape = tuple(spec.shape[1:])
        if hasattr(spec, "ragged_rank") or not all(shape):
            return 1  # rows of unknown size; or of none: unbatch would crash the process
        size += batch_size * spec.dtype.size * math.prod(shape)
    if prefetch == 0 or size > SMALL_BATCH:
        return 1
    return max(1, min(MOST_BATCHES, CHUNK_BYTES // max(1, size)))


def make(
    tf: Any,
    source: Source,
    specs: dict[str, Any],
    arrange: Callable[[dict[str, Any]], Any],
    tensor: Callable[[str, Any], Any],
    tensors: Callable[[AnyBatch], dict[str, Any]],
    batch_size: int,
    *,
    drop_remainder: bool,
    prefetch: int,
    empty: bool,
    full: bool = False,
    handed: Handed,
) -> Any:
    """Build the dataset.

    Parameters
    ----------
    tf : module
        TensorFlow.
    source : callable
        ``source(most)`` gives the next batches.
    specs : dict
        Column name -> ``tf.TensorSpec`` of a batch.
    arrange : callable
        Makes a batch's structure of values by column name.
    tensor : callable
        Makes a tensor of a column.
    tensors : callable
        Makes those of all columns of a batch.
    batch_size, drop_remainder, prefetch
        As for ``DataFeed.dataset``.
    empty : bool
        When nothing came in time, hand out batches without rows.
    full : bool
        Every batch has ``batch_size`` rows, and elements say so, as with ``drop_remainder``.
    handed : Handed
        Is told of iterators and batches.
    """
    if full or (drop_remainder and not empty):
        specs = {name: _of_rows(tf, spec, batch_size) for name, spec in specs.items()}
    most = 1 if empty else batches_at_once(specs, batch_size, prefetch)  # unbatch crashes on a batch without rows
    if most > 1:
        specs = {name: tf.TensorSpec((None, *spec.shape), spec.dtype) for name, spec in specs.items()}

    def epoch() -> Iterator[Any]:
        ahead = 1
        handed.begin(ahead=True)
        try:
            while True:
                item = source(ahead)
                if item is None:
                    return
                columns, rows = item.columns, item.rows
                if not rows:
                    if not empty:
                        continue
                    columns = {name: _nothing(spec) for name, spec in specs.items()}
                    parts = 1
                elif rows < batch_size and drop_remainder:
                    continue
                elif most > 1:
                    each = min(rows, batch_size)
                    parts = rows // each
                    columns = {name: _chunk(columns[name], parts, each) for name in specs}
                    # Who only looks at a first batch, as Keras does to build a model, must not lose a chunk by it.
                    ahead = min(most, 2 * ahead)
                else:
                    parts = 1
                item = None
                # from_generator takes arrays without a copy, but of ragged columns only tensors.
                columns = {name: tensor(name, value) if isinstance(value, Ragged) else value for name, value in columns.items()}
                handed.gave(parts)
                yield arrange(columns)
                del columns  # the wait for the next batch must not hold this one's slot
        except GeneratorExit:
            if prefetch:
                log.info("an iterator of dataset() was given up in mid-epoch; what it had read ahead is not handed out again")
            raise

    dataset = tf.data.Dataset.from_generator(epoch, output_signature=arrange(specs))
    # A prefetch is a thread that hands over every batch: with small ones as dear as all the rest, and a chunk is ahead as it is.
    ahead = prefetch if most == 1 else 0
    dataset = dataset.prefetch(ahead) if ahead else dataset
    if most > 1:
        dataset = dataset.unbatch()
    options = tf.data.Options()
    if not ahead:
        options.experimental_optimization.inject_prefetch = False  # TensorFlow would do it all the same
    # Spark has sharded the rows already; the default policy would throw away all but one worker's share of each node's.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    dataset = dataset.with_options(options)

    def batches() -> Generator[Any, None, None]:
        handed.begin(ahead=False)
        while (item := source(1)) is not None:
            element = None
            if item.rows and not (item.rows < batch_size and drop_remainder):
                element = arrange(tensors(item))
            item = None  # the wait for the next batch must not hold this one's slot
            if element is not None:
                yield element

    return dataset if empty else read_directly(tf, dataset, batches, handed.go_on)


def _of_rows(tf: Any, spec: Any, rows: int) -> Any:
    shape = (rows, *spec.shape[1:])
    if hasattr(spec, "ragged_rank"):
        return tf.RaggedTensorSpec(shape, spec.dtype, ragged_rank=spec.ragged_rank)
    return tf.TensorSpec(shape, spec.dtype)


def _chunk(rows: Any, batches: int, each: int) -> np.ndarray:
    chunk: np.ndarray = rows.reshape(batches, each, *rows.shape[1:])
    return chunk


def _nothing(spec: Any) -> Values:
    """A column without rows."""
    values = np.empty([size or 0 for size in spec.shape], spec.dtype.as_numpy_dtype)
    rank = getattr(spec, "ragged_rank", 0)
    return Ragged(values.reshape(0, *values.shape[rank + 1 :]), [np.zeros(1, np.int64)] * rank) if rank else values
