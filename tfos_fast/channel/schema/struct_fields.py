"""Columns that are fields of structs, in two views of one feed. Pure.

Some rows have a struct, others None in its place; some structs have a field, others lack it. A schema says in ``structs`` which
dotted names its rows have structs under, so that what one view lacks is a column of nothing but None there. A struct of which no
field is known yet is a *stand-in*: a column of its own name, whose place the fields take.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tfos_fast.channel.schema.columns import Column, Schema, describe
from tfos_fast.channel.schema.detect import duplicates
from tfos_fast.channel.schema.structs import outer_names
from tfos_fast.errors import SchemaMismatch


def aligned(a: Schema, b: Schema) -> tuple[Schema, Schema]:
    """Give both schemas the columns of both, as far as structs allow: fields that one of them lacks are null there.

    Returns
    -------
    tuple of Schema
        With the same columns in the same order; their names still differ where a column is no field of a struct.

    Raises
    ------
    SchemaMismatch
        A column is a struct in one and something else in the other.
    """
    structs = {*a.structs, *b.structs}
    if not structs:
        return a, b
    opened = structs & outer_names((*a.names, *b.names))
    for one, other in ((a, b), (b, a)):
        within = outer_names(one.names)
        for column in one.columns:
            if column.name in opened or column.name in structs:
                _check_place(column, one, other, within)
    names = _merged(a, b, opened)
    return _with(a, names, structs), _with(b, names, structs)


def _check_place(column: Column, schema: Schema, other: Schema, within: Collection[str]) -> None:
    """Refuse a column that cannot give its place to a struct's fields. ``within``: the structs that names of the schema have."""
    path = column.name
    if path in schema.structs and column.kind in ("object", "unused"):
        return
    if column.kind != "null":
        fields = ", ".join(name for name in other.names if name.startswith(f"{path}.")) or "none"
        raise SchemaMismatch(
            f"column {path!r}: some rows have a struct (its fields: {fields}), others {describe(column)}; feed values of one kind, "
            "or declare the column 'object' in the spec and read it with batches()"
        )
    if path in within:  # a column whose own name has a dot
        raise duplicates([name for name in schema.names if name.startswith(f"{path}.")])


def _merged(a: Schema, b: Schema, opened: set[str]) -> tuple[str, ...]:
    names: list[str] = []
    first = {*a.names}
    known = first.union(b.names)
    fields: dict[str, list[str]] = {}  # of structs, those that only the second one has
    for name in b.names:
        if name not in first:
            for path in opened.intersection(outer_names([name])):
                fields.setdefault(path, []).append(name)
    for name in a.names:
        if name in opened:  # its fields take its place
            names.extend(fields.get(name, ()))
        else:
            names.append(name)
    placed = set(names)
    for name in b.names:
        if name not in placed and name not in opened:
            names.append(name)
    return tuple(name for name in dict.fromkeys(names) if name in known)


def _with(schema: Schema, names: Iterable[str], structs: Collection[str]) -> Schema:
    by_name = {column.name: column for column in schema.columns}
    # A struct that the schema itself has, or the None that stands in its place.
    inside = {*schema.structs, *(column.name for column in schema.columns if column.kind == "null" and column.name in structs)}
    columns: list[Column] = []
    for name in names:
        if name in by_name:
            columns.append(by_name[name])
        elif not inside.isdisjoint(outer_names([name])):
            columns.append(Column(name, "null", nulls="seen"))
    return Schema(schema.structure, tuple(columns), tuple(sorted(structs)))


def with_fields(schema: Schema, names: Iterable[str], *, known: bool) -> Schema:
    """Add columns for fields that are declared and that the schema does not have: null, until rows bring values.

    Parameters
    ----------
    schema : Schema
    names : iterable of str
        Dotted names, of which others are passed over.
    known : bool
        Also of structs that have other fields; False: only where rows have had nothing but None in the struct's place.
    """
    missing = [name for name in names if name not in schema.names]
    if not missing:
        return schema
    empty = {column.name for column in schema.columns if column.kind == "null" or column.name in schema.structs}
    columns = list(schema.columns)
    structs = set(schema.structs)
    for name in missing:
        outer = sorted(outer_names([name]), key=len)
        place = next((path for path in outer if path in empty), None)
        if place is None and not (known and structs.intersection(outer)):
            continue
        added = Column(name, "null", nulls="seen")
        at = next((i for i, column in enumerate(columns) if column.name == place), None)
        if at is None:
            columns.append(added)
        else:
            columns[at] = added
        inner = outer if place is None else outer[outer.index(place) :]
        structs.update(inner)
    return Schema(schema.structure, tuple(columns), tuple(sorted(structs)))


def lacking(schema: Schema, name: str) -> str:
    """Say which fields a struct has when a declared one is not among them; empty when the name is no field of a known struct."""
    outer = sorted(outer_names([name]).intersection(schema.structs), key=len)
    if not outer:
        return ""
    for struct in reversed(outer):  # of the innermost no row may have a field yet
        fields = [field for field in schema.names if field.startswith(f"{struct}.") and field != name]
        if fields:
            return f"{struct!r} has the fields {', '.join(fields)}"
    return f"{outer[-1]!r} has no field so far"


def policy_names(name: str) -> list[str]:
    """Names under which a policy for a column may be declared: its own, then those of the structs around it, the nearest first."""
    return [name, *sorted(outer_names([name]), key=len, reverse=True)]
