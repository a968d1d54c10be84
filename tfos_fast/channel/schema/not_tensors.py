"""For errors: the type of a value that no tensor has, and what to feed in its place. Slow; nothing else asks for it. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tfos_fast.channel.schema.structs import struct_of
from tfos_fast.values.nested import measure

_OTHERWISE = "feed numbers, text or lists of these, or declare the column 'object' in the spec and read it with batches()"
#: How far into nested lists somebody may be interested in what they hold.
_DEEP = 8


def found(value: Any, odd: str) -> str:
    """Say what a value is and what helps; empty when the value by itself is numbers, text or lists of these.

    ``odd``: the type of what lies in it, where that is no number or text.
    """
    if value is None or measure(value) is not None:
        return ""
    return f"{f'values of type {odd}, which are' if odd else f'{type_of(value)}, which is'} no tensor; {_way_out(value)}"


def type_of(value: Any) -> str:
    """What a value is whose parts are numbers and text."""
    levels = 0
    while isinstance(value, list | tuple) and struct_of(value) is None and len(value) and levels < _DEEP:
        if not _alike(value):
            return f"{'a list of ' * (levels + 1)}{', '.join(sorted({_type(item) for item in value})[:4])}"
        value = value[0]
        levels += 1
    return f"{'a list of ' * levels or 'one '}{_type(value)}"


def _alike(values: Iterable[Any]) -> bool:
    """Whether there is one type, so that the first value shows what is wrong with all."""
    return len({type(value) for value in values}) == 1


def _type(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _way_out(value: Any) -> str:
    inside, levels = value, 0
    while isinstance(inside, list | tuple) and struct_of(inside) is None and len(inside) and levels < _DEEP:
        if not _alike(inside):
            return f"feed lists of one type and one depth, or {_OTHERWISE.partition(', or ')[2]}"
        inside = inside[0]
        levels += 1
    if levels and struct_of(inside) is not None:
        return "feed a list for each field, as {'a': [1, 2], 'b': [3, 4]} in place of [{'a': 1, 'b': 3}, {'a': 2, 'b': 4}]"
    if isinstance(inside, dict):
        return "feed its keys and its values as two lists, or give it keys of text: then each becomes a column"
    if isinstance(inside, set | frozenset):
        return "feed sorted(value), a list"
    if isinstance(inside, datetime.time):
        return "feed a datetime.timedelta since midnight, or its seconds"
    if isinstance(inside, np.ma.MaskedArray):
        return "feed value.filled(...), and its mask as a column of its own"
    if hasattr(inside, "toarray"):  # scipy's sparse matrices
        return "feed value.toarray(), or its indices and its data as two lists"
    if callable(getattr(inside, "numpy", None)):  # torch, TensorFlow
        return "feed value.numpy()"
    if hasattr(inside, "to_numpy"):  # pandas, Arrow
        return "feed value.to_numpy()"
    if isinstance(inside, np.ndarray | np.void) and inside.dtype.names:
        return f"feed each of its fields ({', '.join(inside.dtype.names)}) as a column of its own, value['{inside.dtype.names[0]}']"
    if isinstance(inside, np.ndarray | np.generic) and inside.dtype.kind in "fc":  # long doubles
        like = "float64" if inside.dtype.kind == "f" else "complex128"
        return f"no tensor has the type {inside.dtype}: feed value.astype({like!r})"
    if hasattr(inside, "__array__") and not isinstance(inside, np.ndarray):  # PIL
        return "feed numpy.asarray(value)"
    if isinstance(inside, str):
        return "it has a lone surrogate, and so no UTF-8 form: feed its bytes, value.encode('utf-8', 'surrogatepass')"
    if isinstance(inside, int):
        return _of_int(value)
    way = _WAYS.get(type(inside).__name__) or next((way for name, way in _WAYS.items() if _has_base(inside, name)), "")
    return f"feed {way}, or {_OTHERWISE.partition(', or ')[2]}" if way else _OTHERWISE


#: Classes of Python's own and others -> what to feed in their place.
_WAYS = {
    "range": "list(value)",
    "deque": "list(value)",
    "generator": "list(value)",
    "memoryview": "bytes(value)",
    "UUID": "str(value) or value.bytes",
    "Enum": "value.value",
    "Fraction": "float(value)",
    "PurePath": "str(value)",
    "Scalar": "value.as_py()",
}


def _has_base(value: Any, name: str) -> bool:
    return any(base.__name__ == name for base in type(value).__mro__)


def _of_int(value: Any) -> str:
    """For whole numbers beyond int64, by themselves or in lists."""
    if not all(isinstance(number, int) and 0 <= number < 2**64 for number in _flat(value)):
        return "it is beyond the range of 64 bits: feed it as a float, or as text"
    way = "numpy.array(value, numpy.uint64)" if isinstance(value, list | tuple) else "numpy.uint64(value)"
    return f"it is beyond int64: feed {way}, a float, or text"


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value
