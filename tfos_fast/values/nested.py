"""Lists in a row's value whose lengths differ: how they are measured, and the bytes that hold one row of them.

The bytes of a row (a *ragged* column's, see ``channel/schema/columns.py``), where D dimensions differ in length::

    D = 1, numbers:   | values |
    otherwise:        | n | n lengths of the second dimension | their sum of lengths of the third | ... | values |

Lengths are uint32, values lie in C order; of text and bytes the last lengths are those of the values themselves.
"""

from __future__ import annotations

import itertools
import struct
from typing import Any

import numpy as np

from tfos_fast.values.dtypes import as_tagged, cast_values, dtype_of, encodable, holds_structs, promote, row_names

ANY_LENGTH = -1
TEXTS = ("string", "bytes")
_TEXT_OF = {"U": "string", "S": "bytes"}
_NO_LENGTHS = np.empty(0, "<u4")
#: (element type, shape with ANY_LENGTH where lengths differ). Numbers of a unit have it behind their type: ``int32@date``.
Form = tuple[str, tuple[int, ...]]


def measure(value: Any) -> Form | None:
    """Element type and lengths of a list of numbers, text or bytes; None when it is none, or not all of one depth and type."""
    if isinstance(value, str):
        return ("string", ()) if encodable(value) else None
    if isinstance(value, bytes | bytearray):
        return "bytes", ()
    tagged = as_tagged(value)
    if tagged is not None:
        return with_unit(tagged[0].dtype.name, tagged[1]), tagged[0].shape
    if isinstance(value, np.ndarray) and value.dtype.kind in "OUS" and value.ndim:
        if value.size == 0 and value.dtype.kind in _TEXT_OF:
            return _TEXT_OF[value.dtype.kind], value.shape
        value = value.tolist()
    if not isinstance(value, list | tuple) or holds_structs(value):
        return None
    inner: Form | None = None
    for item in value:
        found = measure(item)
        inner = found if inner is None else found and meet(inner, found)
        if inner is None:
            return None
    return None if inner is None else (inner[0], (len(value), *inner[1]))


def with_unit(dtype: str, unit: str) -> str:
    """An element type of a Form."""
    return f"{dtype}@{unit}" if unit else dtype


def meet(a: Form, b: Form) -> Form | None:
    """The form that holds both; None when they differ in depth or unit, or no type holds the numbers of both unchanged.

    Lists without items (the unit ``"?"`` says so, too) may be of any type and unit, and hold lists of any depth.
    """
    nothing, nothing_either = _is_nothing(a), _is_nothing(b)
    unit = _unit_of_both(a, b)
    a, b = (a[0].partition("@")[0], a[1]), (b[0].partition("@")[0], b[1])
    a, b = _deepened(a, b), _deepened(b, a)
    if unit is None or len(a[1]) != len(b[1]):
        return None
    shape = tuple(x if x == y else ANY_LENGTH for x, y in zip(a[1], b[1], strict=True))
    dtype: str | None
    if a[0] == b[0]:
        dtype = a[0]
    elif nothing and nothing_either:
        dtype = _of_nothing(a[0], b[0])
    elif nothing or nothing_either:
        dtype = (b if nothing else a)[0]  # nothing in it: the other one says the type
    else:
        dtype = None if a[0] in TEXTS or b[0] in TEXTS else promote(a[0], b[0])
    return None if dtype is None else (with_unit(dtype, unit) if dtype not in TEXTS else dtype, shape)


def _unit_of_both(a: Form, b: Form) -> str | None:
    one, other = (form[0].partition("@")[2] for form in (a, b))
    if _is_nothing(a) and _is_nothing(b):
        return max(one, other)
    if _is_nothing(a):
        return other
    return one if one == other or _is_nothing(b) else None


def _is_nothing(form: Form) -> bool:
    return 0 in form[1] or form[0].endswith("@?")


def _of_nothing(a: str, b: str) -> str | None:
    """The type of lists without items: text, where one is an array of it (a list says nothing), else numbers that hold both."""
    texts = sorted({a, b} & {*TEXTS})
    if texts:
        return texts[-1]
    return promote(a, b) or ("complex128" if "c" in (a[0], b[0]) else "float64")


def _deepened(form: Form, other: Form) -> Form:
    dtype, shape = form
    return (dtype, shape + other[1][len(shape) :]) if shape and shape[-1] == 0 else form


def ragged(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with every dimension outside of a ragged one ragged as well, as TensorFlow has them (and of one without items)."""
    last = max((i for i, length in enumerate(shape) if length in (ANY_LENGTH, 0)), default=-1)
    return (ANY_LENGTH,) * (last + 1) + shape[last + 1 :]


def encode(value: Any, dtype: str, shape: tuple[int, ...], *, cast: bool, unit: str = "") -> bytes | None:
    """One row of a ragged column as bytes; None when the value does not fit.

    Parameters
    ----------
    value : list, tuple or array
    dtype : str
        Element type, or ``"string"``, ``"bytes"``.
    shape : tuple of int
        Of the column: some times ANY_LENGTH, then fixed lengths.
    cast : bool
        See :func:`tfos_fast.values.dtypes.can_cast`.
    unit : str
        That of the numbers; see ``special.py``. ``"?"``: only lists without items are taken.
    """
    depth = shape.count(ANY_LENGTH)
    level: list[Any] = [value]
    lengths: list[list[int]] = []
    text = dtype in TEXTS
    for _ in range(depth if text else depth - 1):
        below: list[Any] = []
        for item in level:
            if not isinstance(item, list | tuple | np.ndarray) or (isinstance(item, np.ndarray) and not item.ndim):
                return None
            if type(item) is not list and row_names(item) is not None:
                return None
            below.extend(item)
        lengths.append([len(item) for item in level])
        level = below
    if text:
        return _texts(level, lengths, dtype) if depth == len(shape) else None
    parts = [_numbers(item, dtype, shape[depth:], cast, unit) for item in level]
    if None in parts:
        return None
    lengths.append([count for count, _ in parts])  # type: ignore[misc]
    values = b"".join([data for _, data in parts])  # type: ignore[misc]
    return values if depth == 1 else _header(lengths) + values


def _numbers(value: Any, dtype: str, inner: tuple[int, ...], cast: bool, unit: str) -> tuple[int, bytes] | None:
    """How many items the list has, and their bytes; None when they do not fit."""
    tagged = as_tagged(value)
    if tagged is None:
        return None
    array, found = tagged
    if array.size and found != unit:
        return None
    if array.ndim == 0 or (array.size == 0 and array.ndim == 1):
        return None if array.ndim == 0 else (0, b"")
    if array.shape[1:] != inner:
        return None
    fitting = cast_values(array, dtype, cast=cast)
    return None if fitting is None else (len(array), fitting.tobytes())


def _header(lengths: list[list[int]]) -> bytes:
    flat = [count for counts in lengths for count in counts]
    return struct.pack(f"<{len(flat)}I", *flat)


def _texts(values: list[Any], lengths: list[list[int]], dtype: str) -> bytes | None:
    if dtype == "string":
        if not all(isinstance(value, str) and encodable(value) for value in values):
            return None
        data = [value.encode() for value in values]
    else:
        if not all(isinstance(value, bytes | bytearray) for value in values):
            return None
        data = [bytes(value) for value in values]
    return _header([*lengths, [len(each) for each in data]]) + b"".join(data)


def decode(rows: list[bytes], dtype: str, shape: tuple[int, ...]) -> tuple[Any, list[np.ndarray]]:
    """Rows of a ragged column of several ragged dimensions, or of text, from their bytes.

    Returns
    -------
    values, splits
        The values of all rows (an array ``(n, *inner)``, or an object array of ``str`` or ``bytes``), and for each ragged dimension
        its row splits, an int64 array.

    Raises
    ------
    ValueError
        The bytes do not hold what they should.
    """
    depth = shape.count(ANY_LENGTH)
    inner = shape[depth:]
    text = dtype in TEXTS
    levels: list[list[np.ndarray]] = [[] for _ in range(depth + text)]
    bodies: list[bytes] = []
    for row in rows:
        at, count = 0, 1
        for level in levels:
            if not count:  # no list is left, however many levels are: they cost nothing
                level.append(_NO_LENGTHS)
                continue
            if at + 4 * count > len(row):
                raise ValueError("a ragged row is shorter than its lengths say: the slot is damaged")
            lengths = np.frombuffer(row, "<u4", count, at)
            level.append(lengths)
            at += 4 * count
            count = int(lengths.sum())
        bodies.append(row[at:])
    splits = [splits_of(np.concatenate(level) if level else np.empty(0, np.uint32)) for level in levels]
    body = b"".join(bodies)
    if text:
        ends = splits.pop()
        if len(body) != ends[-1]:
            raise ValueError("the text of a ragged row is not as long as its lengths say: the slot is damaged")
        values = np.empty(len(ends) - 1, object)
        values[:] = [body[a:b].decode() if dtype == "string" else body[a:b] for a, b in itertools.pairwise(ends.tolist())]
        return values, splits
    kind = dtype_of(dtype)
    items = int(np.prod(inner, dtype=np.int64)) * kind.itemsize
    if len(body) != int(splits[-1][-1]) * items:
        raise ValueError("the values of a ragged row are not as many as its lengths say: the slot is damaged")
    return np.frombuffer(bytearray(body), kind).reshape(-1, *inner), splits


def splits_of(lengths: np.ndarray) -> np.ndarray:
    """Row splits of the lengths: int64, one more than they are, from 0."""
    splits = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=splits[1:])
    return splits
