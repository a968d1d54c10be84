"""A batch's columns as eager tensors, which alias their memory through DLPack where they can.

TensorFlow is imported only by the functions that need it.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tfos_fast.channel.reader.batch import AnyBatch, PlainBatch
from tfos_fast.channel.schema.columns import WHY_OBJECTS, Column, Schema
from tfos_fast.errors import MissingDependency, SchemaMismatch
from tfos_fast.native.dlpack import capsule
from tfos_fast.tf import specs
from tfos_fast.values.aligned import Values, aligned_empty, is_aligned
from tfos_fast.values.dtypes import dtype_of
from tfos_fast.values.nested import ANY_LENGTH, TEXTS
from tfos_fast.values.ragged import Ragged


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
            f"({error}); install tfos-fast[tensorflow], tfos-fast[cpu] or tfos-fast[gpu] for {sys.executable}, or, on a cluster, "
            "set PYSPARK_PYTHON to a Python that has it"
        ) from error
    return tf


@functools.cache
def importer() -> Callable[[list[Any]], list[Any]]:
    """Makes eager tensors of DLPack capsules.

    By TensorFlow's own function beneath ``from_dlpack`` (tensorflow/python/dlpack/dlpack.py), as the Python around it costs as much
    as half of it, for each column of each batch; by ``from_dlpack`` itself where this TensorFlow has none such.
    """
    tf = tensorflow()
    from_dlpack = tf.experimental.dlpack.from_dlpack

    def public(capsules: list[Any]) -> list[Any]:
        return list(map(from_dlpack, capsules))

    try:
        from tensorflow.python import pywrap_tfe
        from tensorflow.python.eager import context

        beneath = pywrap_tfe.TFE_FromDlpackCapsule

        def direct(capsules: list[Any]) -> list[Any]:
            now = context.context()
            now.ensure_initialized()
            handle = now._handle
            return list(map(beneath, capsules, itertools.repeat(handle)))

        sample = aligned_empty((16,), np.dtype(np.float32))
        return direct if direct([capsule(sample)])[0].shape == (16,) else public
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError, tf.errors.OpError):
        return public


@functools.cache
def _aliasable(dtype: str) -> bool:
    """Whether this TensorFlow imports the dtype through DLPack (the list differs between versions, so it is tried)."""
    tf = tensorflow()
    try:
        tensor = importer()([capsule(aligned_empty((16,), dtype_of(dtype)))])[0]
        return bool(tensor.dtype == tf.as_dtype(dtype))
    except (TypeError, ValueError, BufferError, RuntimeError, tf.errors.OpError):
        return False


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
    return importer()([capsule(array)])[0]


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
    if array.size and is_aligned(array) and _aliasable(array.dtype.name):
        return importer()([capsule(array)])[0]
    return tf.constant(array)


def columns_maker() -> Callable[[AnyBatch], dict[str, Any]]:
    """A function that makes a batch's tensors, by column name. All its batches have the same columns: types are looked at once."""
    tensors_of = importer()
    names: list[str] = []
    aliasable: bool | None = None

    def make(batch: AnyBatch) -> dict[str, Any]:
        nonlocal aliasable
        if isinstance(batch, PlainBatch):
            if aliasable is None:
                arrays = batch.columns
                names.extend(arrays)
                aliasable = all(array.size and _aliasable(array.dtype.name) for array in arrays.values())  # type: ignore[union-attr]
            if aliasable:
                return dict(zip(names, tensors_of(batch.capsules()), strict=True))
        return {name: to_tensor(name, array) for name, array in batch.columns.items()}

    return make


def tensor_maker(schema: Schema, spec: Any) -> Callable[[AnyBatch], Any]:
    """A function that makes a batch's tensors, in the structure that rows and spec give it."""
    arrange = arranger(schema, spec)
    columns = columns_maker()

    def make(batch: AnyBatch) -> Any:
        return arrange(columns(batch))

    return make


def arranger(schema: Schema, spec: Any) -> Callable[[dict[str, Any]], Any]:
    """A function that arranges values by column name: as a nested spec says, else as the rows are."""
    if not specs.is_nested(spec):
        return functools.partial(arrange_as_rows, schema)
    outline, leaves = specs.outline(spec), list(specs.leaves(spec))
    if not specs.is_positional(spec) or set(leaves) <= set(schema.names):
        return functools.partial(specs.arrange, outline)
    places = list(zip(leaves, schema.names, strict=True))
    return lambda values: specs.arrange(outline, {leaf: values[name] for leaf, name in places})


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


__all__ = [
    "alias", "arrange_as_rows", "arranger", "columns_maker", "importer", "tensor_maker", "tensor_spec", "tensorflow", "to_tensor",
]  # fmt: skip
