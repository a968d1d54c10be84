"""Structs to columns: a row's value that is a Row, named tuple or dict becomes columns of dotted names. Column mode only.

``(7, Row(x=1, y=2))`` is read as ``{"c0": 7, "c1.x": 1, "c1.y": 2}``. Where a struct is None, all its columns are (its fields are
known from the rows before it).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tfos_fast._convert import are_names, row_names


def has_structs(row: Any) -> bool:
    """Whether a value of the row is a struct."""
    fields = fields_of(row)
    return fields is not None and any(_struct(value) is not None for value in fields.values())


def flatten(rows: Iterable[Any]) -> Iterator[Any]:
    """The rows as dicts of dotted names. Values are not copied; what is no row with columns stays as it is."""
    known: dict[str, tuple[str, ...]] = {}
    for row in rows:
        fields = fields_of(row)
        yield row if fields is None else dict(_leaves("", fields, known))


def _leaves(prefix: str, fields: dict[str, Any], known: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        path = prefix + name
        struct = _struct(value)
        if struct is None and value is None and path in known:
            struct = dict.fromkeys(known[path])
        if struct is None:
            yield path, value
        else:
            known.setdefault(path, tuple(struct))
            yield from _leaves(f"{path}.", struct, known)


def fields_of(row: Any) -> dict[str, Any] | None:
    """Name -> value of a row's columns; None when it is a bare value."""
    struct = _struct(row)
    if struct is None and isinstance(row, tuple | list):
        return {f"c{i}": value for i, value in enumerate(row)}
    return struct


def _struct(value: Any) -> dict[str, Any] | None:
    if isinstance(value, dict):
        return value if value and are_names(value) else None
    names = row_names(value)
    return dict(zip(names, value, strict=True)) if names else None
