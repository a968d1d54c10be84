"""For errors: where None lies inside a value of a row that is to become numbers or text. Slow; nothing else asks for it. Pure."""

from __future__ import annotations

import array
import datetime
import decimal
from typing import Any

import numpy as np

from tfos_fast.channel.schema.columns import BEYOND, OBJECTS, ONE_KIND, no_policy
from tfos_fast.channel.schema.not_tensors import found, type_of
from tfos_fast.channel.schema.structs import pairs_of
from tfos_fast.errors import SchemaMismatch
from tfos_fast.values.nested import measure
from tfos_fast.values.special import is_linalg, is_missing


def hole(value: Any) -> tuple[int, ...]:
    """Indices of the first None inside a list, tuple or array of objects, from the outside in; empty when there is none."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "OMm" and value.ndim:
        value = list(value)
    if not isinstance(value, list | tuple):
        return ()
    for i, item in enumerate(value):
        if is_missing(item):
            return (i,)
        if inner := hole(item):
            return (i, *inner)
    return ()


_TENSORS = (bool, int, float, complex, str, bytes, bytearray, datetime.date, datetime.timedelta, decimal.Decimal, np.generic)


def stranger(value: Any) -> str:
    """The type of the first value, inside lists, too, that no column but one of objects takes; empty when there is none."""
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object and value.ndim):
        return next((odd for item in value if (odd := stranger(item))), "")
    if value is None or isinstance(value, (*_TENSORS, np.ndarray, array.array)) or is_linalg(value):
        return ""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def concerned(error: SchemaMismatch, name: str) -> bool:
    """Whether the error is one of this column: these begin with its name."""
    return str(error).startswith(f"column {name!r}: ")


def explained(error: SchemaMismatch, row: Any) -> SchemaMismatch:
    """The error in words for None, inside a list or by itself, if that is what the row has in its column; else as it is."""
    pairs = pairs_of(row)
    for name, value in [("c0", row)] if pairs is None else pairs:
        if concerned(error, name) and (at := hole(value)):
            where = "".join(f"[{i}]" for i in at)
            return SchemaMismatch(
                f"column {name!r}: None at index {where} inside its list, which is no tensor then; replace it before the rows are "
                "fed, or declare the column 'object' in the spec and read it with batches()"
            )
        if concerned(error, name) and BEYOND in str(error):
            try:
                measure(value)
            except SchemaMismatch as beyond:
                return SchemaMismatch(f"column {name!r}: {beyond}")
        before, objects, _ = str(error).partition(OBJECTS)
        if concerned(error, name) and is_missing(value) and objects:
            return SchemaMismatch(before + no_policy(name))
        before, of_objects, _ = str(error).partition("the rows have object")
        if concerned(error, name) and (objects or of_objects) and (text := found(value, stranger(value))):
            return SchemaMismatch(f"{before}the rows have {text}" if of_objects else f"{str(error).partition(OBJECTS)[0]}{text}")
        before, objects, _ = str(error).partition(f"found {OBJECTS}")
        if concerned(error, name) and objects:
            return SchemaMismatch(f"{before}found {type_of(value)}; {ONE_KIND}")
    return error
