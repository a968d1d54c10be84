"""One column's entry in a spec: what programs write, as (type name, shape). Nothing here needs TensorFlow. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfos_fast.channel.schema.type_names import type_name
from tfos_fast.channel.schema.widen import Declared
from tfos_fast.errors import FormError
from tfos_fast.values.nested import ANY_LENGTH


def entries(spec: Any) -> dict[str, Declared]:
    """Read a flat spec: column name -> what one row's value is.

    Raises
    ------
    FormError
    """
    if not isinstance(spec, dict) or not all(isinstance(name, str) for name in spec):
        raise FormError(f"a spec is a dict of column names, such as {{'c0': 'float32', 'c1': ('int64', (3,))}}, not {spec!r:.200}")
    return {name: one_entry(name, part) for name, part in spec.items()}


def one_entry(name: str, part: Any) -> Declared:
    """Read one column's entry: a dtype, (dtype, shape of one row's value), or an object with ``dtype`` and ``shape``.

    Raises
    ------
    FormError
    """
    shape: Any = None
    dtype = part
    if hasattr(part, "ragged_rank"):  # a tf.RaggedTensorSpec
        dtype, shape = part.dtype, _ragged_shape(name, part)
    elif type(part).__name__ == "SparseTensorSpec":
        raise FormError(f"column {name!r}: the spec says {part!r}, and batches have no sparse tensors; say (dtype, shape) of a row")
    elif hasattr(part, "dtype") and hasattr(part, "shape") and not isinstance(part, np.generic | type):  # a tf.TensorSpec
        dtype, shape = part.dtype, part.shape
        shape = None if getattr(shape, "rank", 0) is None else tuple(shape)
        if shape is not None and None in shape:
            raise FormError(
                f"column {name!r}: the spec says {part!r}, and rows of different lengths make no tensor: give one row's shape, "
                "or a tf.RaggedTensorSpec"
            )
    elif isinstance(part, tuple) and len(part) == 2:
        dtype, shape = part
    kind = type_name(name, dtype)
    if shape is None:
        return kind, None
    lengths = tuple(shape) if isinstance(shape, tuple | list) or hasattr(shape, "rank") else (shape,)
    if any(length is not None and (not hasattr(length, "__index__") or int(length) < ANY_LENGTH) for length in lengths):
        raise FormError(f"column {name!r}: the spec says the shape {lengths!r}; a length is a number from 0, or None for any")
    return kind, tuple(ANY_LENGTH if length is None else int(length) for length in lengths)


def _ragged_shape(name: str, spec: Any) -> tuple[int | None, ...]:
    lengths = spec.shape
    if lengths.rank is None or lengths.rank < 2 or spec.ragged_rank < 1:
        raise FormError(f"column {name!r}: the spec says {spec!r}; it is that of a batch: give it a shape of [None, None] or more")
    inner: tuple[int | None, ...] = tuple(lengths)[1 + spec.ragged_rank :]
    if None in inner:
        raise FormError(f"column {name!r}: the spec says {spec!r}, whose last dimensions have no length")
    ragged: tuple[None, ...] = (None,) * spec.ragged_rank
    return ragged + inner
