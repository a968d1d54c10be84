"""The feed as a TensorFlow program sees it: rows, arrays, eager tensors that alias shared memory, and ``tf.data`` datasets.

TensorFlow is imported only by the methods that need it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfos_fast.channel.assembler import Columns, is_aligned
from tfos_fast.channel.reader import Reader, Spec
from tfos_fast.channel.schema import Schema
from tfos_fast.errors import ChannelClosed, FormError, MissingDependency, SchemaMismatch


@functools.cache
def tensorflow() -> Any:
    """The module ``tensorflow``.

    Raises
    ------
    MissingDependency
        It is not installed.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingDependency(
            "tensors() and dataset() need TensorFlow, which cannot be imported "
            f"({error}); install tfos-fast[tensorflow], tfos-fast[cpu] or tfos-fast[gpu]"
        ) from error
    return tf


@functools.cache
def _aliasable(dtype: str) -> bool:
    """Whether this TensorFlow imports the dtype through DLPack (the list differs between versions, so it is tried)."""
    tf = tensorflow()
    try:
        return tf.experimental.dlpack.from_dlpack(_aligned_sample(dtype).__dlpack__()).dtype == tf.as_dtype(dtype)
    except (TypeError, ValueError, BufferError, RuntimeError, tf.errors.OpError):
        return False


def _aligned_sample(dtype: str) -> np.ndarray:
    raw = np.zeros(256, np.uint8)
    shift = -raw.ctypes.data % 64
    return raw[shift : shift + 64].view(dtype)


def alias(array: np.ndarray) -> Any:
    """An eager tensor on the array's own memory. Memory is not copied; the tensor keeps the array alive.

    Parameters
    ----------
    array : ndarray
        C-contiguous, writable, its first byte at a multiple of 64.

    Raises
    ------
    ValueError
        It is not aligned or not contiguous. (TensorFlow would import it, and abort the process at the first kernel.)
    """
    if not is_aligned(array):
        raise ValueError(
            f"the array at {array.ctypes.data:#x} with strides {array.strides} is not contiguous at a multiple of 64 bytes; copy it"
        )
    return tensorflow().experimental.dlpack.from_dlpack(array.__dlpack__())


def to_tensor(name: str, array: np.ndarray) -> Any:
    """A column as an eager tensor: aliased when it can be, else copied (strings always are).

    Raises
    ------
    SchemaMismatch
        The column holds Python objects of no tensor type.
    """
    tf = tensorflow()
    if array.dtype.hasobject:
        kinds = {type(value) for value in array}
        if not kinds <= {str, bytes}:
            found = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise SchemaMismatch(
                f"column {name!r} holds Python objects ({found}), which are no tensor: values of a type without one, or of "
                "differing types or shapes; feed values of one type and shape, or use next_batch() or batches()"
            )
        return tf.constant(array, tf.string)
    if array.size and is_aligned(array) and _aliasable(array.dtype.name):
        return alias(array)
    return tf.constant(array)


def row_spec(spec: Any) -> Spec:
    """Read a spec.

    Parameters
    ----------
    spec : None, dict or tuple
        Column name -> what one row's value is: a ``tf.TensorSpec``, a dtype, or (dtype, shape). In a tuple the n-th entry is for
        column ``c<n>``.

    Returns
    -------
    dict
        Column name -> (dtype name, shape or None: any).

    Raises
    ------
    FormError
    """
    if spec is None:
        return {}
    if not isinstance(spec, dict | tuple | list):
        raise FormError(f"a spec is a dict, or a tuple with an entry for each column of tuple rows; {spec!r} is neither")
    items = spec.items() if isinstance(spec, dict) else ((f"c{i}", part) for i, part in enumerate(spec))
    return {name: _one_spec(name, part) for name, part in items}


def _one_spec(name: str, part: Any) -> tuple[str, tuple[int, ...] | None]:
    shape: Any = None
    dtype = part
    if hasattr(part, "dtype") and hasattr(part, "shape") and not isinstance(part, np.generic | type):  # a tf.TensorSpec
        dtype, shape = part.dtype, part.shape
        shape = None if getattr(shape, "rank", 0) is None else tuple(shape)
    elif isinstance(part, tuple):
        dtype, shape = part
    if hasattr(dtype, "as_numpy_dtype"):
        dtype = dtype.as_numpy_dtype
    try:
        kind = np.dtype(dtype).name
    except TypeError as error:
        raise FormError(f"column {name!r}: the spec says {dtype!r}, which is no type of numpy or TensorFlow") from error
    return kind, None if shape is None else tuple(int(size) for size in np.atleast_1d(np.asarray(shape, dtype=np.int64)))


class DataFeed:
    """What ``ctx.get_data_feed()`` gives to ``main``.

    One feed is read in one way: rows (``next_batch``) or columns (``batches``, ``tensors``, ``dataset``, ``poll``).

    Parameters
    ----------
    reader : Reader
        The channel's reader.

    Examples
    --------
    >>> feed = ctx.get_data_feed()                        # doctest: +SKIP
    >>> for images, labels in feed.tensors(256):          # doctest: +SKIP
    ...     step(images, labels)
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def should_stop(self) -> bool:
        """Whether the feed has ended and all rows were handed out. Does not wait."""
        return self.reader.ended

    def next_batch(self, n: int) -> list[Any]:
        """The next ``n`` rows as they were fed, Python types included. Values are copied.

        Waits until there are ``n``; fewer come at the end of the feed, and in inference when nothing more has come for a moment.
        """
        return self.reader.next_rows(n)

    def batches(self, n: int, spec: Any = None) -> Iterator[Columns]:
        """Batches of ``n`` rows as numpy arrays, until the feed ends. Memory is not copied for aligned batches.

        Parameters
        ----------
        n : int
            Rows in a batch. Multiples of 64 keep every column aligned.
        spec : dict or tuple, optional
            See :func:`row_spec`: casts are done while packing.

        Yields
        ------
        dict
            Column name -> array of shape ``(n, *shape)``. The arrays may be kept: their memory is not reused before they are gone.
        """
        return self.reader.batches(n, spec=row_spec(spec))

    def tensors(self, n: int, spec: Any = None) -> Iterator[Any]:
        """Batches of ``n`` rows as eager tensors, until the feed ends. Memory is not copied for aligned batches of numbers.

        Yields
        ------
        tuple, dict or tensor
            A tuple where rows are tuples or lists, a dict where their columns have names, one tensor where they are bare values.
            First dimension: ``n``, or what is left at the end.
        """
        for columns in self.batches(n, spec):
            yield self._structure(columns)

    def poll(self, n: int, timeout: float, spec: Any = None) -> Any:
        """One batch as ``tensors`` gives it, or None when there is none within ``timeout`` seconds (see ``should_stop``)."""
        batch = self.reader.next_batch(n, spec=row_spec(spec), timeout=timeout)
        return None if batch is None else self._structure(batch.columns)

    def dataset(self, batch_size: int, spec: Any = None, drop_remainder: bool = False) -> Any:
        """The feed as a ``tf.data.Dataset`` of batches. Memory is not copied for aligned batches of numbers.

        Each new iterator is the next epoch of the feed, or what the iterator before it left of this one. An epoch's last batch may
        be short. With Keras call ``fit`` once for each epoch: ``model.fit(ds, initial_epoch=e, epochs=e + 1)``. In one call of
        several epochs Keras takes as many batches in each as the first had, and epochs need not be equal, since Spark deals
        partitions to the nodes anew. Waits for the first rows, unless ``spec`` has every shape.

        Parameters
        ----------
        batch_size : int
            Rows in a batch of this node. Multiples of 64 keep every column aligned.
        spec : dict or tuple, optional
            See :func:`row_spec`.
        drop_remainder : bool
            Leave out the short batch at an epoch's end.

        Raises
        ------
        SchemaMismatch
            A column holds Python objects, which are no tensor.
        ChannelClosed
            The feed ended without a row and ``spec`` does not say what rows would have been.
        """
        tf = tensorflow()
        declared = row_spec(spec)
        if declared and all(shape is not None for _, shape in declared.values()):
            self.reader.open_columns(batch_size, declared, wait=False)
            single = {name: tf.TensorSpec((None, *(shape or ())), dtype) for name, (dtype, shape) in declared.items()}
            signature: Any = single if isinstance(spec, dict) else tuple(single.values())
            as_dict = isinstance(spec, dict)
        else:
            schema = self.reader.open_columns(batch_size, declared)
            if schema is None:
                raise ChannelClosed(
                    "the feed ended without a row for this process (fewer partitions than nodes?): repartition the data, or say "
                    "what its elements would be, with shapes: dataset(..., spec={'x': ('float32', (784,)), 'y': ('int32', ())})"
                )
            single = {column.name: self._column_spec(column) for column in schema.columns}
            signature, as_dict = _arrange(schema, single), schema.structure not in ("tuple", "list", "bare")

        def epoch() -> Iterator[Any]:
            while (batch := self.reader.next_batch(batch_size, spec=declared, epoch_ends=True)) is not None:
                if drop_remainder and batch.rows < batch_size:
                    continue
                if as_dict:
                    yield batch.columns
                else:
                    values = tuple(batch.columns[name] for name in single)
                    yield values if isinstance(signature, tuple) else values[0]

        dataset = tf.data.Dataset.from_generator(epoch, output_signature=signature)
        options = tf.data.Options()
        # Spark has sharded the rows already; the default policy would throw away all but one worker's share of each node's.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return dataset.with_options(options)

    def batch_results(self, results: Sequence[Any]) -> None:
        """Inference: one result for each row handed out, in the same order; Python objects, returned as they are.

        Raises
        ------
        ValueError
            There are more results than rows without one.
        """
        self.reader.write_results(list(results))

    def terminate(self) -> None:
        """Want no more rows: feeding to this node ends soon, what is queued is dropped."""
        self.reader.terminate()

    def _structure(self, columns: Columns) -> Any:
        assert self.reader.schema is not None
        return _arrange(self.reader.schema, {name: to_tensor(name, array) for name, array in columns.items()})

    @staticmethod
    def _column_spec(column: Any) -> Any:
        tf = tensorflow()
        if column.kind == "object":
            raise SchemaMismatch(
                f"column {column.name!r} holds Python objects, which are no tensor: values of a type without one (None, dates), "
                "or of differing types or shapes; feed values of one type and shape, or use next_batch() or batches()"
            )
        if column.kind in ("string", "bytes"):
            return tf.TensorSpec((None,), tf.string)
        return tf.TensorSpec((None, *column.shape), tf.as_dtype(np.dtype(column.dtype)))


def _arrange(schema: Schema, values: dict[str, Any]) -> Any:
    if schema.structure in ("tuple", "list"):
        return tuple(values.values())
    if schema.structure == "bare":
        return next(iter(values.values()))
    return values


__all__ = ["DataFeed", "alias", "row_spec", "to_tensor"]
