"""What a program declares of columns: their types and shapes by ``spec=``, what becomes of None by ``nulls=``.

Nothing here needs TensorFlow.
"""

from __future__ import annotations

import operator
from typing import Any

from tfos_fast.channel.schema.columns import Column
from tfos_fast.channel.schema.null_policies import MASK, null_policies
from tfos_fast.channel.schema.spec_entries import one_entry
from tfos_fast.channel.schema.widen import Declared
from tfos_fast.errors import FormError
from tfos_fast.tf import specs
from tfos_fast.values.nested import ANY_LENGTH, TEXTS


def row_spec(spec: Any) -> dict[str, Declared]:
    """Read a spec.

    Parameters
    ----------
    spec : None, dict or tuple
        Column name -> what one row's value is: a ``tf.TensorSpec``, a dtype, or (dtype, shape), where None is the length of a
        dimension that differs from row to row. A dtype is one of numpy, TensorFlow or Spark, or its name. ``"float"`` and ``"int"``
        are refused: some mean 64 bits by them, others 32 (see :mod:`tfos_fast.channel.schema.type_names`). A
        ``tf.RaggedTensorSpec`` is that of a whole batch: its first dimension is the rows.
        In a tuple the n-th entry is for column ``c<n>``. Nested: see :mod:`tfos_fast.tf.specs`.

    Returns
    -------
    dict
        Column name -> (dtype name, shape or None: any).

    Raises
    ------
    FormError
    """
    return {name: one_entry(name, part) for name, part in specs.leaves(spec).items()}


def batch_size(n: Any) -> int:
    """Read the rows of a batch, of whatever class of whole numbers they are.

    Raises
    ------
    ValueError
    """
    size = -1 if isinstance(n, bool | float) or not hasattr(n, "__index__") else operator.index(n)
    if not 1 <= size < 2**62:
        raise ValueError(f"a batch size is a whole number of rows, 1 or more, not {n!r}")
    return size


def is_whole(declared: dict[str, Declared], nulls: Any) -> bool:
    """Whether batches can be told from what is declared, without a row."""
    return bool(declared) and not nulls and all(shape is not None for _, shape in declared.values())


def not_whole(spec: Any) -> FormError:
    """The error for a spec that leaves something to the rows."""
    return FormError(
        "nodes in step need a spec with every dtype and shape, and no nulls, since one of them may have no rows: "
        f"such as {{'x': ('float32', (784,)), 'y': ('int32', ())}}, not {spec!r}"
    )


def column(name: str, dtype: str, shape: tuple[int, ...] | None) -> Column:
    """The column that an entry of :func:`row_spec` declares, where it says the shape."""
    shape = shape or ()
    if dtype in ("object", "str", *TEXTS) and not shape:
        return Column(name, {"str": "string"}.get(dtype, dtype))  # type: ignore[arg-type]
    return Column(name, "ragged" if ANY_LENGTH in shape else "fixed", dtype, shape)


__all__ = ["MASK", "batch_size", "column", "is_whole", "not_whole", "null_policies", "row_spec"]
