"""Structs to columns: a row's value that is a Row, named tuple or dict becomes columns of dotted names. Column mode only.

``(7, Row(x=1, y=2))`` is read as ``{"c0": 7, "c1.x": 1, "c1.y": 2}``. Where a struct is None, all its columns are (its fields are
known from the rows before it).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from tfos_fast._convert import are_names, row_names

Outer = Collection[str] | None


def outer_names(names: Iterable[str]) -> frozenset[str]:
    """The structs of which a dotted name names a field: ``a`` and ``a.b`` of ``a.b.c``."""
    return frozenset(name[:at] for name in names for at, letter in enumerate(name) if letter == ".")


def has_structs(row: Any, outer: Outer = None) -> bool:
    """Whether a value of the row is a struct; with ``outer``, one of these."""
    fields = fields_of(row)
    return fields is not None and any(
        (outer is None or name in outer) and _struct(value) is not None for name, value in fields.items()
    )


def flatten(rows: Iterable[Any], outer: Outer = None) -> Iterator[Any]:
    """The rows as dicts of dotted names. Values are not copied; what is no row with columns stays as it is.

    With ``outer`` these structs alone are taken apart.
    """
    known: dict[str, tuple[str, ...]] = {}
    for row in rows:
        fields = fields_of(row)
        yield row if fields is None else dict(_leaves("", fields, known, outer))


def _leaves(prefix: str, fields: dict[str, Any], known: dict[str, tuple[str, ...]], outer: Outer) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        path = prefix + name
        struct = _struct(value) if outer is None or path in outer else None
        if struct is None and value is None and path in known:
            struct = dict.fromkeys(known[path])
        if struct is None:
            yield path, value
        else:
            known.setdefault(path, tuple(struct))
            yield from _leaves(f"{path}.", struct, known, outer)


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
