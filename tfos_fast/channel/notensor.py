"""For errors: the type of a value that no tensor has, and what to feed in its place. Slow; nothing else asks for it. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfos_fast._nested import measure
from tfos_fast.channel.structs import struct_of

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
    while isinstance(value, list | tuple) and len(value) and levels < _DEEP:
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
    if hasattr(inside, "__array__") and not isinstance(inside, np.ndarray):  # PIL
        return "feed numpy.asarray(value)"
    if isinstance(inside, int):
        return "it is beyond the range of 64 bits: feed it as a float, or as text"
    return _OTHERWISE
