"""Which Python values are arrays of numbers, and which casts keep their values.

Schema inference and the packer both go by this module, so that a value which the packer refuses is always one for which
the schema has to widen.
"""

from __future__ import annotations

import functools
import pickle
from typing import Any

import numpy as np

from tfos_fast.errors import MissingDependency
from tfos_fast.values.special import Tagged, as_number

#: Element types of fixed columns. Everything else travels as an object.
DTYPES = frozenset(
    [
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    ]
)
#: Element type -> the next ones that hold its numbers: numpy's "safe" casts, but for some of unsigned integers into floats. With
#: these, the type of int8, uint8 and float16 together would depend on which two meet first. float64 rounds integers of 64 bits.
_NEXT = {
    **{"bool": "int8 uint8", "int8": "int16 float16 bfloat16", "int16": "int32 float32", "int32": "int64 float64"},
    **{"int64": "float64", "uint8": "int16 uint16", "uint16": "int32 uint32", "uint32": "int64 uint64", "uint64": "float64"},
    **{"float16": "float32", "bfloat16": "float32", "float32": "float64 complex64", "float64": "complex128"},
    **{"complex64": "complex128", "complex128": ""},
}
#: What a Python number is taken for.
LEAVES: dict[type, str] = {float: "float64", int: "int64", bool: "bool"}
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
_SINGLE = (bool, int, float, complex, str, bytes, np.generic)
_LEAF = frozenset([bool, int, float, str, bytes])
_ndarray = np.ndarray


@functools.cache
def dtype_of(name: str) -> np.dtype:
    """The numpy type of a name in DTYPES.

    Raises
    ------
    MissingDependency
        It is bfloat16, which numpy knows by the package ml_dtypes alone (TensorFlow brings it along).
    """
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise MissingDependency("numpy has bfloat16 by the package ml_dtypes only: pip install ml_dtypes") from error
        bfloat16: np.dtype = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


def is_spark_row(row: object) -> bool:
    """Whether this is exactly pyspark's ``Row`` with names (found by its name: pyspark is not imported here)."""
    kind = type(row)
    return kind.__name__ == "Row" and kind.__module__ == "pyspark.sql.types" and hasattr(row, "__fields__")


def row_names(row: Any) -> tuple[str, ...] | None:
    """Names of the values of a Row or named tuple; None for anything else."""
    if not isinstance(row, tuple) or type(row) is tuple:
        return None
    fields = getattr(row, "__fields__", None)
    if fields is None:
        fields = getattr(row, "_fields", None)
    if not isinstance(fields, (list, tuple)) or len(fields) != len(row) or not are_names(fields):
        return None
    return tuple(fields)


def named_fields(value: Any) -> dict[str, Any] | None:
    """A row of a structured array as a dict of its fields; None for anything else."""
    if isinstance(value, np.void) and value.dtype.names:
        return {name: value[name] for name in value.dtype.names}
    return None


def holds_structs(value: Any) -> bool:
    """Whether a list or tuple is a Row or named tuple, or some item at any depth is one: these are no lists, they have fields."""
    if not isinstance(value, (list, tuple)):
        return False
    if type(value) is not list and row_names(value) is not None:
        return True
    if not len(value) or isinstance(value[0], _SINGLE):  # behind a single value, a list or Row makes no array anyway
        return False
    for item in value:
        kind = type(item)
        if kind is list and (not item or type(item[0]) in _LEAF):
            continue  # as the call would say, for less
        if kind is not _ndarray and holds_structs(item):
            return True
    return False


def are_names(names: Any) -> bool:
    """Whether all can be names of columns: exactly ``str``, and with a UTF-8 form."""
    return all(type(name) is str and encodable(name) for name in names)


def encodable(text: str) -> bool:
    """Whether the text has a UTF-8 form: a lone surrogate has none."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_packable(dtype: np.dtype) -> bool:
    """Whether a fixed column can have this element type, in native byte order."""
    return (dtype.kind in "biufc" or dtype.name == "bfloat16") and dtype.name in DTYPES


def as_array(value: Any) -> np.ndarray | None:
    """As ``as_tagged``, without the unit."""
    tagged = as_tagged(value)
    return None if tagged is None else tagged[0]


def as_tagged(value: Any) -> Tagged | None:
    """Column mode: the value as an array of native numbers, and their unit, or None when it is not one.

    Numbers, numpy arrays and scalars, regular lists and tuples of those, ``array.array``, and what ``special.py`` names, in lists,
    too. A masked array is none of them: its mask would be lost. Nor is a list of Rows or named tuples: their names would be.
    Copies unless the value is an array already.

    Raises
    ------
    SchemaMismatch
        See :func:`tfos_fast.values.special.as_number`.
    """
    if isinstance(value, np.ma.MaskedArray):
        return None
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind == "O" and array.ndim:
            return _stacked(array.tolist())
    elif isinstance(value, (bool, int, float, complex)):
        if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
            return None
        array = np.asarray(value)
    elif isinstance(value, (list, tuple)) or type(value).__name__ == "array":
        if holds_structs(value):
            return None
        try:
            array = np.asarray(value)
        except (ValueError, TypeError, OverflowError):  # ragged, or no numbers
            return None
        if array.dtype.kind in "OMm" and len(value):
            return _stacked(value)
        if array.dtype == np.float64 and array.size and np.abs(array).max() >= 2**63 and _only_integers(value):
            return None  # numpy mixes int64 and uint64 into float64, which loses digits
        if array.dtype == np.uint64 and isinstance(value, list | tuple) and _has_ints(value):
            return None  # Python's beyond int64 are none of a column's numbers, whatever lies beside them
    else:
        return as_number(value)
    if not is_packable(array.dtype):
        return as_number(array) if array.dtype.kind in "Mm" else None
    return (array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))), ""


def _stacked(values: Any) -> Tagged | None:
    """A list of dates, times, decimals, item by item: numpy takes them for objects, or for times of the finest unit."""
    parts: list[np.ndarray] = []
    first: Tagged | None = None
    dtype = ""
    for value in values:
        part = as_tagged(value)
        first = first or part
        if part is None or first is None or part[1] != first[1] or part[0].shape != first[0].shape:
            return None
        found = part[0].dtype.name
        common = found if dtype in ("", found) else promote(dtype, found)
        if common is None:
            return None
        dtype = common
        parts.append(part[0])
    return None if first is None else (np.stack(parts).astype(dtype_of(dtype), copy=False), first[1])


def _only_integers(value: Any) -> bool:
    return all(isinstance(item, (int, np.integer)) for item in np.asarray(value, dtype=object).ravel())


def _has_ints(value: Any) -> bool:
    return any(_has_ints(item) for item in value) if isinstance(value, list | tuple) else type(value) is int


@functools.cache
def can_cast(source: str, target: str, *, cast: bool) -> bool:
    """Whether values of one element type may be written into a column of another.

    Without a declared cast only where :func:`promote` says that the target holds them. With one (``cast=True``) also any
    integer to any float, integer to integer (each value is checked against the range) and what numpy calls same_kind (float64
    to float32).
    """
    if source == target:
        return True
    if not cast:
        return target in _above(source)
    a, b = dtype_of(source).kind, dtype_of(target).kind
    if b == "b":
        return False
    return (a in "iub" and b in "iufc") or bool(np.can_cast(dtype_of(source), dtype_of(target), "same_kind"))


@functools.cache
def promote(a: str, b: str) -> str | None:
    """The smallest element type that holds the numbers of both; None when integers alone would become floats.

    The type of several is the same in any order, but for uint64, smaller integers and floats together.
    """
    both = _above(a) & _above(b)
    found = next((name for name in both if both <= _above(name)), None)
    return None if "int" in a and "int" in b and found is not None and "int" not in found else found


@functools.cache
def _above(name: str) -> frozenset[str]:
    """The type, and all that hold its numbers."""
    return frozenset([name]).union(*map(_above, _NEXT[name].split()))


def values_fit(array: np.ndarray, dtype: str, *, cast: bool) -> bool:
    """Whether every value of the array may be written as this type; see :func:`can_cast`. One without values fits any."""
    if not array.size:
        return True
    if not can_cast(array.dtype.name, dtype, cast=cast):
        return False
    target = dtype_of(dtype)
    if array.dtype.kind in "iu" and target.kind in "iu" and not np.can_cast(array.dtype, target, "safe"):
        bounds = np.iinfo(target)
        return bounds.min <= int(array.min()) and int(array.max()) <= bounds.max
    return True


def cast_values(array: np.ndarray, dtype: str, *, cast: bool) -> np.ndarray | None:
    """Give the array as a C-contiguous one of another type, copied if need be; None when a value does not fit."""
    if not values_fit(array, dtype, cast=cast):
        return None
    if not array.size:
        return np.empty(array.shape, dtype_of(dtype))
    with np.errstate(over="ignore"):  # float64 to float32 may give inf, as a C cast does
        # Not ascontiguousarray: that makes a 0-d array one-dimensional.
        return np.asarray(array, dtype=dtype_of(dtype), order="C")


def deepened(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """A list without items in the shape of deeper ones, (0,) as (0, 2); None when it is none, or does not suit."""
    fits = array.shape[-1:] == (0,) and array.shape + shape[array.ndim :] == shape
    return array.reshape(shape) if fits else None


def plain_fill(fill: Any) -> Any:
    """The Python value that stands for None; see ``channel/schema/columns.py`` for byte strings."""
    return getattr(fill, "data", fill)


def fill_bytes(kind: str, dtype: str, shape: tuple[int, ...], fill: Any) -> bytes:
    """What is written for None into a column of this kind; see ``channel/schema/columns.py``."""
    fill = plain_fill(fill)
    if kind == "string":
        return fill if isinstance(fill, bytes) else (fill or "").encode()
    if kind == "bytes":
        return fill if isinstance(fill, bytes) else (fill or "").encode("latin-1")
    if kind == "object":
        return pickle.dumps(fill, 5)
    if kind == "fixed":
        value = np.zeros((), dtype_of(dtype)) if fill is None else np.asarray(fill).astype(dtype_of(dtype))
        return np.broadcast_to(value, shape).tobytes()
    if kind == "ragged" and (dtype not in DTYPES or shape.count(-1) > 1):
        # A list without items begins with its length, see values/nested.py; of numbers in one dimension it has no bytes.
        return bytes(4)
    return b""
