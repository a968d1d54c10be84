"""Fields of structs that a spec names, and that rows may lack: some row has to have them up to the first batch. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from tfos_fast.channel.protocol.messages import Form
from tfos_fast.channel.schema.columns import Schema
from tfos_fast.channel.schema.struct_fields import lacking
from tfos_fast.channel.schema.structs import outer_names
from tfos_fast.errors import SchemaMismatch
from tfos_fast.values.spelling import meant


class Awaited:
    """The spec's fields that rows lack, where only a policy for other columns, too, says what stands for them.

    A misspelt field would be a column of nothing but that.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()  # writers give their rows these fields: that one is None does not say that rows have it
        self._missing: set[str] = set()
        self._met: set[str] = set()

    def meet(self, names: Iterable[str]) -> None:
        """Rows have these fields; None is a value, too."""
        self._met.update(names)

    def note(self, schema: Schema, form: Form) -> None:
        """Take in what a writer's rows have."""
        kinds = {column.name: column.kind for column in schema.columns}
        for name in form.spec:
            if name in form.nulls or name in self._met:
                continue
            kind = kinds.get(name, "")
            if kind not in ("", "null") or (kind and name not in self._told):
                self._met.add(name)
                continue
            self._told.add(name)
            outer = outer_names([name])
            if any(kinds.get(path) == "null" for path in outer):  # the struct itself is None
                continue
            beside = [kinds[each] for each in kinds if each != name and not outer.isdisjoint(outer_names([each]))]
            if lacking(schema, name) and (not kind or any(each != "null" for each in beside)):
                self._missing.add(name)

    def check(self, schema: Schema) -> None:
        """Nothing more may come.

        Raises
        ------
        SchemaMismatch
            No row has a field.
        """
        for name in sorted(self._missing - self._met):
            raise no_field(name, lacking(schema, name), schema)


def no_field(name: str, fields: str, schema: Schema) -> SchemaMismatch:
    """The error for a field of the spec that no row has had so far. ``fields``: what :func:`lacking` says."""
    near = meant([name], (each for each in schema.names if each != name)) or "."
    return SchemaMismatch(
        f"the spec names {name!r}; the rows' struct {fields}{near} Where only some rows have it, say what stands for it: "
        f"nulls={{{name!r}: 0}}"
    )
