"""What a feed's columns are: the schemas its writers proposed, by number, and the one they agree on. Pure."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from tfos_fast.channel.protocol.awaited_fields import Awaited, no_field
from tfos_fast.channel.protocol.messages import Form
from tfos_fast.channel.schema.columns import BEYOND, OBJECTS, SEVERAL, WHY_OBJECTS, Column, Schema, describe
from tfos_fast.channel.schema.kinds import check_mode
from tfos_fast.channel.schema.struct_fields import lacking
from tfos_fast.channel.schema.type_names import type_name
from tfos_fast.channel.schema.widen import (
    apply_nulls,
    apply_spec,
    by_position,
    entry_of,
    has_policy,
    is_empty,
    join,
    leave_out,
    settle,
)
from tfos_fast.errors import FormError, SchemaMismatch
from tfos_fast.values.dtypes import DTYPES, promote
from tfos_fast.values.nested import TEXTS

#: Bytes of memory that all schemas of a feed may take, about: its broker and its reader keep each as long as the feed lasts.
MOST_MEMORY = 64 << 20
_LOOSE = ("object", "unused")
# What is written in the place of None, and that it is, the reader does not see.
_NO_FILL: dict[str, Any] = {"fill": {"nulls": "", "fill": None}, "mask": {"fill": None}}
_FIXED = "a feed's columns are fixed when its first batch is read (rows of any kind pass through next_batch)"


class Agreement:
    """The schemas of one feed.

    In column mode there is one for everybody. It widens until it is pinned, at the reader's first batch. In row mode every slot may
    have its own.

    Attributes
    ----------
    awaited : Awaited
        The spec's fields that no row may have.
    """

    def __init__(self) -> None:
        self._schemas: list[Schema] = []
        self._memory = 0
        self._numbers: dict[Schema, int] = {}
        self._current: int | None = None
        self._needed: Schema | None = None  # what rows need, before anything is done about nulls
        self._pinned = False
        self.awaited = Awaited()
        self._nothing: frozenset[str] = frozenset()  # columns that had only None up to the first batch

    def __getitem__(self, number: int) -> Schema:
        return self._schemas[number]

    def __len__(self) -> int:
        return len(self._schemas)

    def number(self, schema: Schema) -> int:
        """The number of a schema; a new one if it was never seen.

        Raises
        ------
        SchemaMismatch
            The feed has too many of them.
        """
        number = self._numbers.get(schema)
        if number is None:
            self._memory = charge(self._memory, schema, MOST_MEMORY, "this feed")
            number = self._numbers[schema] = len(self._schemas)
            self._schemas.append(schema)
        return number

    def propose(self, schema: Schema, form: Form) -> tuple[int, Schema]:
        """Take in what a writer's rows need; gives the schema in force and its number.

        Raises
        ------
        SchemaMismatch
            The rows do not fit the spec, the other writers' rows, or what the reader has begun to read.
        """
        if form.exact:
            return self.number(schema), schema
        form, schema = _placed(form, schema)
        self.awaited.note(schema, form)
        self._check_kinds(schema, form)
        self._check_late(schema)
        needed = _typed(schema, form)
        if self._needed is not None:
            needed = _joined(self._needed, needed)
            if self._pinned:
                needed = replace(needed, columns=tuple(map(_as_read, self._needed.columns, needed.columns)))
            self._check_kinds(needed, form)
            needed = _typed(needed, form)
        schema = self._rule(needed, form)
        if form.tensors:
            _check_tensors(self._in_force, schema)
        self._needed = needed
        self._current = self.number(schema)
        return self._current, schema

    def rule(self, form: Form) -> None:
        """What becomes of nulls is declared now, after writers have begun.

        Raises
        ------
        SchemaMismatch
            It does not suit what they have brought.
        """
        if self._needed is not None:
            form, needed = _placed(form, self._needed)
            self._current = self.number(self._rule(needed, form))

    @property
    def _in_force(self) -> Schema | None:
        return None if self._current is None else self._schemas[self._current]

    def _check_kinds(self, found: Schema, form: Form) -> None:
        """Refuse values of several kinds, or beyond their range, in columns that are not ones of objects anyway."""
        known = {} if self._needed is None else {column.name: column.kind for column in self._needed.columns}
        for column in found.columns:
            if column.unit not in ("mixed", "beyond") or known.get(column.name) in _LOOSE:
                continue
            declared = form.spec.get(column.name)
            if form.only if declared is None else declared[0] == "object":
                continue
            old = next((c for c in self._in_force.columns if c.name == column.name), None) if self._in_force is not None else None
            expected = "" if old is None else f"expected {describe(old)}, found "
            raise SchemaMismatch(f"column {column.name!r}: {expected}{SEVERAL if column.unit == 'mixed' else BEYOND}")

    def _check_late(self, found: Schema) -> None:
        """Refuse a struct in a column that had only None up to the first batch, and whose fields nobody has declared."""
        for name in sorted(self._nothing.intersection(found.structs).difference(found.names)):
            fields = [field for field in found.names if field.startswith(f"{name}.")]
            assert self._in_force is not None
            raise SchemaMismatch(
                f"column {name!r}: up to the first batch rows had only None there, now a struct (its fields: {', '.join(fields)}); "
                f"{_FIXED}. Declare its fields, in the spec such as {{{fields[0]!r}: 'float32'}} or in nulls={{{fields[0]!r}: ...}}"
            )

    def _rule(self, needed: Schema, form: Form) -> Schema:
        current = self._in_force
        schema = apply_nulls(_declared(needed, form), form.nulls, form.spec)
        if self._pinned:
            schema = settle(schema)
        if current is None:
            return schema
        if schema.columns == current.columns and schema.structs == current.structs:
            return current  # how a writer's rows hold the columns is the writer's own matter
        if self._pinned and _forms(schema) != _forms(current):
            raise SchemaMismatch(_difference(current, schema))
        return schema

    def pin(self) -> tuple[int, Schema] | None:
        """Nothing wider from here on; None when nobody has proposed anything.

        Raises
        ------
        SchemaMismatch
            The spec names a field that no row has.
        """
        current = self._in_force
        if current is None:
            return None
        assert self._needed is not None
        self.awaited.check(self._needed)
        self._pinned = True
        self._nothing = frozenset(column.name for column in current.columns if column.kind == "null")
        pinned = settle(current)
        self._current = self.number(pinned)
        # Columns that have had nothing but nulls have a type now, where no spec says it. Fields that only a policy names are new.
        known = {column.name: column for column in self._needed.columns}
        settled: list[Column] = []
        for before, after in zip(current.columns, pinned.columns, strict=True):
            needed = known.get(before.name)
            if needed is not None and (before == after or after.kind == "object"):
                settled.append(needed)
            else:
                settled.append(Column(after.name, "object") if after.kind == "object" else replace(after, nulls="seen", fill=None))
        self._needed = Schema(self._needed.structure, tuple(settled), current.structs)
        return self._current, pinned


def charge(memory: int, schema: Schema, most: int, who: str) -> int:
    """The memory of schemas, with one more of them.

    Raises
    ------
    SchemaMismatch
        It is more than ``most``. ``who`` has them, for the message.
    """
    memory += 512 + sum(384 + 4 * len(column.name) + 40 * len(column.shape) for column in schema.columns)
    memory += sum(64 + 4 * len(name) for name in schema.structs)
    if memory > most:
        raise SchemaMismatch(
            f"{who} has had so many different columns that they take {most >> 20} MiB: names, types, or shapes of arrays change "
            "from row to row. Feed values of one shape, or such rows as one value each, pickled"
        )
    return memory


def _typed(schema: Schema, form: Form) -> Schema:
    """The columns as declared, but for those that have had nothing but nulls or lists without items: what will come is open."""
    declared = _declared(schema, form)
    known = {column.name: column for column in schema.columns if column.kind != "null"}
    columns: list[Column] = []
    for column in declared.columns:
        found = known.get(column.name)
        if column.kind in _LOOSE:
            columns.append(column)
        elif found is None:
            columns.append(Column(column.name, "null", nulls="seen"))
        elif column.dtype in TEXTS and is_empty(found) and form.spec.get(column.name, ("", ()))[1] is None:
            columns.append(found)
        else:
            columns.append(column)
    return replace(declared, columns=tuple(columns))


def _placed(form: Form, schema: Schema) -> tuple[Form, Schema]:
    """A tuple's spec under the columns' own names. Batches are tuples then, as the spec is."""
    if not form.positional or (spec := by_position(form.spec, schema.names)) is form.spec:
        return form, schema
    return replace(form, spec=spec), replace(schema, structure="tuple")


def _declared(schema: Schema, form: Form) -> Schema:
    for name in form.spec:
        if name not in schema.names and (fields := lacking(schema, name)) and not has_policy(name, form.nulls):
            raise no_field(name, fields, schema)
    schema = apply_spec(schema, form.spec) if form.spec else schema
    schema = leave_out(schema, form.spec) if form.only else schema
    if form.tensors:  # a struct without fields is no tensor, and loses nothing
        schema = leave_out(schema, {*schema.names}.difference(schema.structs))
    return schema


def _joined(needed: Schema, more: Schema) -> Schema:
    """A column that is one of objects takes values of every kind; nothing that was packed before is changed by it."""
    objects = {column.name for column in needed.columns if column.kind == "object"}
    joined = join(needed, more, exact=False)
    return replace(joined, columns=tuple(Column(c.name, "object") if c.name in objects else c for c in joined.columns))


def _as_read(before: Column, joined: Column) -> Column:
    """Behind the first batch a column whose lists had no items keeps the type that it was read with, if that takes the values."""
    kept = before.name == joined.name and before.kind == joined.kind == "ragged" and before.unit == "?" and before.dtype in DTYPES
    if not kept or joined.dtype not in DTYPES or promote(before.dtype, joined.dtype) != before.dtype:
        return joined
    return replace(joined, dtype=before.dtype)


def _forms(schema: Schema) -> list[Column]:
    """The columns as the reader sees them, whatever rows bring the values in."""
    return [
        Column(c.name, "object") if c.kind == "object" else replace(c, python="", unit="", **_NO_FILL.get(c.nulls, {}))
        for c in schema.columns
    ]


def _check_tensors(before: Schema | None, schema: Schema) -> None:
    """Refuse columns of Python objects, while it is known which rows brought them."""
    for i, column in enumerate(schema.columns):
        if column.kind == "object" or (column.kind == "null" and column.nulls == "seen"):
            expected = f"expected {describe(before.columns[i])}, found" if before is not None else "it holds"
            raise SchemaMismatch(f"column {column.name!r}: {expected} {OBJECTS}, {WHY_OBJECTS}")


def check_form(form: Form) -> None:
    """Refuse a form whose spec names types by other names than their own.

    Raises
    ------
    FormError
    """
    for name, (dtype, _) in form.spec.items():
        if type_name(name, dtype) != dtype:
            raise FormError(f"column {name!r}: the spec says {dtype!r}; a reader says {type_name(name, dtype)!r}")


def check_proposal(schema: Schema, form: Form) -> None:
    """Refuse what a writer may not propose. That a column exists at all, its message was checked for when it was decoded.

    Raises
    ------
    SchemaMismatch
    """
    check_mode(schema, exact=form.exact)
    for column in schema.columns:
        # What becomes of None, and what is left out, the reader declares.
        if column.nulls in ("fill", "mask") or column.fill is not None or column.kind == "unused" or column.python == "bytes":
            raise SchemaMismatch(f"column {column.name!r}: a writer does not declare what its reader does")


def _difference(current: Schema, joined: Schema) -> str:
    for before, after, one, other in zip(current.columns, joined.columns, _forms(current), _forms(joined), strict=False):
        if one != other:
            none = after.nulls and not before.nulls
            found = "None" if none else f"values that need {describe(after)}"
            if none:
                way = f"; nulls={{{before.name!r}: ...}} says what becomes of it"
            else:
                entry = entry_of(after)
                way = f"; spec={{{before.name!r}: {entry!r}}} declares it from the first row on" if entry else ""
            return f"column {before.name!r}: expected {describe(before)}, found {found}; {_FIXED}{way}"
    return f"expected columns {list(current.names)}, found {list(joined.names)}; {_FIXED}"
