"""Specs in the shape that a program wants its batches in: nested tuples and dicts of leaves, one leaf for a column.

Which column a leaf is for:

- a leaf in a dict: the column of that name; in a dict inside a dict ``outer.inner``, as structs are named;
- a leaf in a tuple: column ``c<n>``, with n its place among all leaves, as the columns of tuple rows are named. Where rows have
  other names (a DataFrame's, say), it is the n-th column, and there must be as many columns as leaves. Where the spec has
  dicts, too, rows have names: there the leaf's own name comes first (``tf.TensorSpec((), tf.int64, name="label")``).

A leaf is a ``tf.TensorSpec`` or the like, a dtype, or (dtype, shape). Nothing here needs TensorFlow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfos_fast.errors import FormError


def outline(spec: Any) -> Any:
    """The spec with the name of its column in the place of each leaf; None for no spec.

    Raises
    ------
    FormError
        It is neither dict, tuple nor ``tf.TensorSpec``, or two leaves are for one column.
    """
    return _read(spec)[0]


def leaves(spec: Any) -> dict[str, Any]:
    """Column name -> leaf, in the spec's order.

    Raises
    ------
    FormError
        As for :func:`outline`.
    """
    return _read(spec)[1]


def is_positional(spec: Any) -> bool:
    """Whether the entries are told apart by their places alone: tuples without a dict in them."""
    return isinstance(spec, tuple | list) and not (isinstance(spec, tuple) and _is_leaf(spec)) and not _has_dict(spec)


def is_nested(spec: Any) -> bool:
    """Whether the batches' structure must be the spec's: a flat dict or tuple leaves it to the rows."""
    if spec is None:
        return False
    parts = spec.values() if isinstance(spec, dict) else spec if isinstance(spec, tuple | list) else [spec]
    return any(not _is_leaf(part) for part in parts)


def arrange(shape: Any, values: dict[str, Any]) -> Any:
    """The outline with each column's value in the place of its name."""
    if isinstance(shape, str):
        return values[shape]
    if isinstance(shape, dict):
        return {key: arrange(part, values) for key, part in shape.items()}
    return tuple([arrange(part, values) for part in shape])


def _read(spec: Any) -> tuple[Any, dict[str, Any]]:
    found: dict[str, Any] = {}
    if spec is None:
        return None, found
    if isinstance(spec, tuple) and _is_leaf(spec):
        raise FormError(f"the spec {spec!r} is one column's (dtype, shape); write ({spec!r},) for rows of one column, or a dict")
    if not isinstance(spec, dict | tuple | list) and not _is_tensor_spec(spec):
        raise FormError(
            f"a spec is a dict, a tuple with an entry for each column of tuple rows, or a nesting of these; {spec!r} is neither"
        )
    return _walk(spec, "", _has_dict(spec), found), found


def _walk(part: Any, name: str, named: bool, found: dict[str, Any]) -> Any:
    if isinstance(part, dict):
        for key in part:
            if not isinstance(key, str):
                raise FormError(f"the spec has the key {key!r}; keys are names of columns")
        return {key: _walk(inner, f"{name}.{key}" if name else key, named, found) for key, inner in part.items()}
    if isinstance(part, tuple | list) and not _is_leaf(part):
        return tuple([_walk(inner, "", named, found) for inner in part])
    column = name or (named and getattr(part, "name", None)) or f"c{len(found)}"
    if column in found:
        raise FormError(f"the spec has two entries for column {column!r}; each column has one")
    found[column] = part
    return column


def _has_dict(part: Any) -> bool:
    return isinstance(part, dict) or (isinstance(part, tuple | list) and not _is_leaf(part) and any(map(_has_dict, part)))


def _is_tensor_spec(part: Any) -> bool:
    return hasattr(part, "dtype") and hasattr(part, "shape") and not isinstance(part, np.generic | np.ndarray | type)


def _is_leaf(part: Any) -> bool:
    if isinstance(part, dict | list):
        return False
    if not isinstance(part, tuple):
        return True
    if len(part) != 2 or isinstance(part[0], dict | tuple | list) or _is_tensor_spec(part[0]):
        return False
    shape = part[1]
    if isinstance(shape, tuple | list):
        return all(size is None or isinstance(size, int | np.integer) for size in shape)
    return shape is None or isinstance(shape, int | np.integer) or hasattr(shape, "rank")


__all__ = ["arrange", "is_nested", "is_positional", "leaves", "outline"]
