"""What a feed's columns are: the schemas its writers proposed, by number, and the one they agree on. Pure."""

from __future__ import annotations

import msgspec

from tfos_fast.channel.fields import lacking
from tfos_fast.channel.kinds import check_mode
from tfos_fast.channel.lattice import apply_nulls, apply_spec, by_position, has_policy, join, leave_out, settle
from tfos_fast.channel.messages import Form
from tfos_fast.channel.schema import OBJECTS, WHY_OBJECTS, Column, Schema, describe
from tfos_fast.channel.typenames import type_name
from tfos_fast.errors import FormError, SchemaMismatch

_FIXED = "a feed's columns are fixed when its first batch is read (rows of any kind pass through next_batch)"


class Agreement:
    """The schemas of one feed.

    In column mode there is one for everybody. It widens until it is pinned, at the reader's first batch. In row mode every slot may
    have its own.
    """

    def __init__(self) -> None:
        self._schemas: list[Schema] = []
        self._numbers: dict[Schema, int] = {}
        self._current: int | None = None
        self._pinned = False
        self._valued: set[str] = set()  # columns of which some row had more than None

    def __getitem__(self, number: int) -> Schema:
        return self._schemas[number]

    def __len__(self) -> int:
        return len(self._schemas)

    def number(self, schema: Schema) -> int:
        """The number of a schema; a new one if it was never seen."""
        number = self._numbers.setdefault(schema, len(self._schemas))
        if number == len(self._schemas):
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
        valued = {column.name for column in schema.columns if column.kind != "null"}
        schema = _declared(schema, form)
        current = None if self._current is None else self._schemas[self._current]
        if current is not None:
            # Of a column without values the type is a guess: a spec need not say whether values or lists of them come.
            known = current if self._pinned else _without_guesses(current, self._valued)
            joined = _declared(join(known, _without_guesses(schema, valued), exact=False), form)
            if joined.columns == current.columns and joined.structs == current.structs:
                joined = current  # how a writer's rows hold the columns is the writer's own matter
            elif self._pinned and _forms(joined) != _forms(current):
                raise SchemaMismatch(_difference(current, joined))
            schema = joined
        if form.tensors:
            _check_tensors(current, schema)
        self._valued |= valued
        self._current = self.number(schema)
        return self._current, schema

    def pin(self) -> tuple[int, Schema] | None:
        """Nothing wider from here on; None when nobody has proposed anything."""
        if self._current is None:
            return None
        self._pinned = True
        self._current = self.number(settle(self._schemas[self._current]))
        return self._current, self._schemas[self._current]


def _without_guesses(schema: Schema, valued: set[str]) -> Schema:
    columns = [c if c.name in valued or c.kind == "unused" else Column(c.name, "null", nulls="seen") for c in schema.columns]
    return Schema(schema.structure, tuple(columns), schema.structs)


def _declared(schema: Schema, form: Form) -> Schema:
    if form.positional and (spec := by_position(form.spec, schema.names)) is not form.spec:
        # Batches are tuples then, as the spec is.
        form = msgspec.structs.replace(form, spec=spec)
        schema = msgspec.structs.replace(schema, structure="tuple")
    for name in form.spec:
        if name not in schema.names and (fields := lacking(schema, name)) and not has_policy(name, form.nulls):
            raise SchemaMismatch(
                f"the spec names {name!r}; the rows' struct {fields}. Where only some rows have it, say what stands for it: "
                f"nulls={{{name!r}: 0}}"
            )
    schema = apply_spec(schema, form.spec) if form.spec else schema
    schema = leave_out(schema, form.spec) if form.only else schema
    if form.tensors:  # a struct without fields is no tensor, and loses nothing
        schema = leave_out(schema, [name for name in schema.names if name not in schema.structs])
    return apply_nulls(schema, form.nulls, form.spec)


def _forms(schema: Schema) -> list[Column]:
    """The columns as the reader sees them, whatever rows bring the values in."""
    return [msgspec.structs.replace(column, python="") for column in schema.columns]


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
    for before, after in zip(current.columns, joined.columns, strict=False):
        if before != after:
            found = "None" if after.nulls and not before.nulls else f"values that need {describe(after)}"
            return f"column {before.name!r}: expected {describe(before)}, found {found}; {_FIXED}"
    return f"expected columns {list(current.names)}, found {list(joined.names)}; {_FIXED}"
