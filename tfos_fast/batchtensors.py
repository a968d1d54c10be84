"""A batch's columns as eager tensors, which alias their memory through DLPack where they can.

TensorFlow is imported only by the functions that need it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tfos_fast import specs
from tfos_fast._convert import dtype_of
from tfos_fast._nested import ANY_LENGTH, TEXTS
from tfos_fast.channel.aligned import Values, is_aligned
from tfos_fast.channel.assembler import Batch
from tfos_fast.channel.ragged import Ragged
from tfos_fast.channel.schema import WHY_OBJECTS, Column, Schema
from tfos_fast.errors import MissingDependency, SchemaMismatch


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


def to_tensor(name: str, array: Values) -> Any:
    """A column as an eager tensor: aliased when it can be, else copied (strings always are).

    Parameters
    ----------
    name : str
        Of the column, for messages.
    array : ndarray or Ragged

    Returns
    -------
    tf.Tensor or tf.RaggedTensor

    Raises
    ------
    SchemaMismatch
        The column holds Python objects of no tensor type.
    """
    tf = tensorflow()
    if isinstance(array, Ragged):
        splits = [tf.constant(split) for split in array.splits]
        return tf.RaggedTensor.from_nested_row_splits(to_tensor(name, array.values), splits, validate=False)
    if array.dtype.hasobject:
        kinds = {type(value) for value in array}
        if not kinds <= {str, bytes}:
            found = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise SchemaMismatch(f"column {name!r} holds Python objects ({found}), {WHY_OBJECTS}")
        return tf.constant(array, tf.string)
    if array.size and is_aligned(array):
        if _aliasable(array.dtype.name):
            return alias(array)
        if array.dtype.name == "bfloat16":  # numpy does not export it; the bits are the same
            return tf.bitcast(alias(array.view(np.uint16)), tf.bfloat16)
    return tf.constant(array)


def tensor_maker(schema: Schema, spec: Any) -> Callable[[Batch], Any]:
    """A function that makes a batch's tensors, in the structure that rows and spec give it.

    Types are looked at once for all batches.
    """
    nested = specs.is_nested(spec)
    arrange: Any = functools.partial(specs.arrange, specs.outline(spec)) if nested else functools.partial(arrange_as_rows, schema)
    as_tuple = not nested and schema.structure in ("tuple", "list")
    from_dlpack = tensorflow().experimental.dlpack.from_dlpack
    aliasable: bool | None = None

    def make(batch: Batch) -> Any:
        nonlocal aliasable
        columns = batch.columns
        if batch.plain:
            if aliasable is None:
                aliasable = all(array.size and _aliasable(array.dtype.name) for array in columns.values())  # type: ignore[union-attr]
            if aliasable:
                tensors = [from_dlpack(array.__dlpack__()) for array in columns.values()]  # type: ignore[union-attr]
                return tuple(tensors) if as_tuple else arrange(dict(zip(columns, tensors, strict=True)))
        return arrange({name: to_tensor(name, array) for name, array in columns.items()})

    return make


def arrange_as_rows(schema: Schema, values: dict[str, Any]) -> Any:
    """Values by column name in the structure of the rows: a tuple, one value, or a dict."""
    if schema.structure in ("tuple", "list"):
        return tuple(values.values())
    if schema.structure == "bare":
        return next(iter(values.values()))
    return values


def tensor_spec(column: Column) -> Any:
    """The ``tf.TensorSpec`` or ``tf.RaggedTensorSpec`` of batches of a column, with any number of rows.

    Raises
    ------
    SchemaMismatch
        The column holds Python objects.
    """
    tf = tensorflow()
    if column.kind == "object":
        raise SchemaMismatch(f"column {column.name!r} holds Python objects, {WHY_OBJECTS}")
    if column.kind in TEXTS:
        return tf.TensorSpec((None,), tf.string)
    dtype = tf.string if column.dtype in TEXTS else tf.as_dtype(dtype_of(column.dtype))
    if column.kind == "ragged":
        shape = tuple(None if length == ANY_LENGTH else length for length in column.shape)
        return tf.RaggedTensorSpec((None, *shape), dtype, ragged_rank=column.ragged_dims)
    return tf.TensorSpec((None, *column.shape), dtype)


__all__ = ["alias", "arrange_as_rows", "tensor_maker", "tensor_spec", "tensorflow", "to_tensor"]
