"""Structs to columns: a row's value that is a Row, named tuple or dict becomes columns of dotted names. Column mode only.

``(7, Row(x=1, y=2))`` is read as ``{"c0": 7, "c1.x": 1, "c1.y": 2}``. Where a struct is None, all its columns are. Where it lacks a
field that others have, that column is. ``struct_fields.py`` joins what rows of either kind say of the columns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.channel.schema.detect import duplicates
from tfos_fast.values.dtypes import are_names, row_names

Outer = Collection[str] | None
Pairs = Collection[tuple[str, Any]]


def outer_names(names: Iterable[str]) -> frozenset[str]:
    """The structs of which a dotted name names a field: ``a`` and ``a.b`` of ``a.b.c``."""
    return frozenset(name[:at] for name in names for at, letter in enumerate(name) if letter == ".")


class Flattener:
    """Take the structs of rows apart.

    Parameters
    ----------
    outer : collection of str, optional
        Take these structs apart and no others.
    whole : collection of str
        Leave these structs as they are: a spec declares them ``"object"``.
    awaited : iterable of str
        Names of columns; those with a dot go to ``met`` when a row has the field.

    Attributes
    ----------
    structs : set of str
        Dotted names of the structs that rows have, or that the feed's columns say they have.
    refused : list
        The row that raised an error, as its only item.
    met : set of str
        See ``awaited``; whoever reads it empties it.
    """

    def __init__(self, outer: Outer = None, whole: Collection[str] = (), awaited: Iterable[str] = ()) -> None:
        self.structs: set[str] = set()
        self.met: set[str] = set()
        self._awaited = {name for name in awaited if "." in name}
        self.refused: list[Any] = []
        self._outer = outer
        self._whole = whole
        self._names: tuple[str, ...] = ()
        self._fields: frozenset[str] = frozenset()  # columns that a row may lack
        self._gone: frozenset[str] = frozenset()  # structs that are no columns themselves

    def wanted(self, row: Any) -> bool:
        """Whether a value of the row is a struct that has to be taken apart."""
        pairs = pairs_of(row)
        return pairs is not None and any(self._struct(name, value) is not None for name, value in pairs)

    def know(self, schema: Schema) -> None:
        """Give rows these columns from now on: None for a field that a row's struct lacks."""
        self.structs.update(schema.structs)
        self._names = schema.names
        self._fields = frozenset(name for name in schema.names if not self.structs.isdisjoint(outer_names([name])))
        self._gone = frozenset(self.structs.difference(schema.names))

    def row(self, row: Any) -> Any:
        """Return the row as a dict of dotted names; a row without columns as it is. Values are not copied.

        Raises
        ------
        SchemaMismatch
            Two values of the row have one name.
        """
        pairs = pairs_of(row)
        if pairs is None:
            return row
        found: dict[str, Any] = {}
        try:
            self._take("", pairs, found)
        except Exception:
            self.refused = [row]
            raise
        if self._awaited and not self._awaited.isdisjoint(found):
            self.met |= self._awaited.intersection(found)
            self._awaited -= self.met
        return self.conform(found)

    def conform(self, found: Any) -> Any:
        """Return what :meth:`row` gave before it knew the feed's columns with these columns."""
        if not self._names or not isinstance(found, dict) or tuple(found) == self._names:
            return found
        out: dict[str, Any] = {}
        for name in self._names:
            if name in found:
                out[name] = found[name]
            elif name in self._fields and not (name in self.structs and any(each.startswith(f"{name}.") for each in found)):
                out[name] = None
        for name, value in found.items():
            if name not in out and not (name in self._gone and (value is None or _is_empty(value))):
                out[name] = value
        return out

    def columns(self, schema: Schema, row: Any) -> Schema:
        """Say in the columns of a row, which was taken apart, where it has structs; one without fields is an object."""
        structs = tuple(sorted(self.structs))
        if not isinstance(row, dict) or self.structs.isdisjoint(schema.names):
            return Schema(schema.structure, schema.columns, structs)
        empty = {name for name in self.structs.intersection(schema.names) if _is_empty(row[name])}
        columns = tuple(Column(column.name, "object") if column.name in empty else column for column in schema.columns)
        return Schema(schema.structure, columns, structs)

    def _struct(self, path: str, value: Any) -> Pairs | None:
        if path in self._whole or (self._outer is not None and path not in self._outer):
            return None
        return struct_of(value)

    def _take(self, prefix: str, pairs: Pairs, found: dict[str, Any]) -> None:
        for name, value in pairs:
            path = prefix + name
            struct = self._struct(path, value)
            if struct is not None:
                self.structs.add(path)
                if struct:
                    self._take(f"{path}.", struct, found)
                    continue
            if path in found:
                raise duplicates([path])
            found[path] = value


def pairs_of(row: Any) -> Pairs | None:
    """Names and values of a row's columns; None when it is a bare value."""
    pairs = struct_of(row)
    if pairs is None and isinstance(row, tuple | list):
        return [(f"c{i}", value) for i, value in enumerate(row)]
    return pairs


def struct_of(value: Any) -> Pairs | None:
    """Names and values of a struct's fields, of which two may have one name; None when the value is no struct."""
    if isinstance(value, dict):
        return value.items() if are_names(value) else None
    names = row_names(value)
    return None if names is None else list(zip(names, value, strict=True))


def _is_empty(value: Any) -> bool:
    struct = struct_of(value)
    return struct is not None and not struct
