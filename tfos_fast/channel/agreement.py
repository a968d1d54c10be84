"""What a feed's columns are: the schemas its writers proposed, by number, and the one they agree on. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfos_fast.channel.messages import Form
from tfos_fast.channel.schema import DTYPES, Schema, apply_spec, join
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
        if form.spec:
            schema = apply_spec(schema, form.spec)
        if not form.exact and self._current is not None:
            current = self._schemas[self._current]
            joined = join(current, schema, exact=False)
            if form.spec:
                joined = apply_spec(joined, form.spec)
            if joined.columns == current.columns:
                joined = current  # how a writer's rows hold the columns is the writer's own matter
            elif self._pinned:
                raise SchemaMismatch(_difference(current, joined))
            schema = joined
        number = self.number(schema)
        if not form.exact:
            self._current = number
        return number, schema

    def pin(self) -> tuple[int, Schema] | None:
        """Nothing wider from here on; None when nobody has proposed anything."""
        if self._current is None:
            return None
        self._pinned = True
        return self._current, self._schemas[self._current]


def check_form(form: Form) -> None:
    """Refuse a form whose spec names types that numpy does not know.

    Raises
    ------
    FormError
    """
    for name, (dtype, _) in form.spec.items():
        if dtype in ("str", "string", "bytes", "object"):
            continue
        try:
            np.dtype(dtype)
        except (TypeError, ValueError, SyntaxError):
            if dtype not in DTYPES:
                raise FormError(f"column {name!r}: the spec says {dtype!r}, which is no type of numpy") from None


def is_sound(schema: Schema) -> bool:
    """Whether a schema from a socket says something that could be laid out."""
    return all(
        column.kind != "fixed" or (column.dtype in DTYPES and all(length >= 0 for length in column.shape))
        for column in schema.columns
    )


def _difference(current: Schema, joined: Schema) -> str:
    for before, after in zip(current.columns, joined.columns, strict=False):
        if before != after:
            return f"column {before.name!r}: expected {_form(before)}, found values that need {_form(after)}; {_FIXED}"
    return f"expected columns {list(current.names)}, found {list(joined.names)}; {_FIXED}"


def _form(column: Any) -> str:
    return f"{column.dtype}{list(column.shape)}" if column.kind == "fixed" else column.kind
