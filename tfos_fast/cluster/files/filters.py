"""The ``filters=`` of a feed of files: what may be written there, and Arrow's expression for it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from tfos_fast.errors import SourceError
from tfos_fast.values.spelling import meant

if TYPE_CHECKING:
    from pyarrow.dataset import Expression

_OPERATORS = ("=", "==", "!=", "<", ">", "<=", ">=", "in", "not in")
_FORM = (
    'filters is a list of (column, operator, value), such as [("x", ">", 3)], a list of such lists, of which one has to hold, or a '
    'pyarrow expression, such as pyarrow.compute.field("x") > 3'
)
_FIELD = re.compile(r"No match for FieldRef\.(?:Nested\(FieldRef\.)?Name\((.*?)\)")  # in Arrow's error
_TEXT = re.compile(r"\s*(\w+)\s*(==?|!=|<=|>=|<|>)\s*(.+?)\s*")


def check_filters(filters: Any) -> None:
    """Refuse what is no filter.

    Raises
    ------
    ValueError
        The message has the right form.
    """
    if filters is None or _is_expression(filters):
        return
    if isinstance(filters, str):
        match = _TEXT.fullmatch(filters)
        instead = f': write [("{match[1]}", "{match[2]}", {match[3]})]' if match else ""
        raise ValueError(f"{_FORM}; not the text {filters!r}{instead}")
    if _is_term(filters):
        raise ValueError(f"{_FORM}; the single condition {filters!r} lacks the list around it: [{filters!r}]")
    if not isinstance(filters, list | tuple) or not filters:
        raise ValueError(f"{_FORM}; not {filters!r:.200} (without filters=, all rows are fed)")
    for part in filters:
        if isinstance(part, list) and part and not _is_term(part):
            for term in part:
                _check_term(term)
        else:
            _check_term(part)
    if len({_is_term(part) for part in filters}) > 1:
        raise ValueError(f"{_FORM}; {filters!r:.200} mixes conditions and lists of conditions")


def to_expression(filters: Any, schema: Any) -> Expression | None:
    """Return Arrow's expression.

    Parameters
    ----------
    filters : Expression, or lists of (column, operator, value)
        That :func:`check_filters` has seen.
    schema : pyarrow.Schema
        The columns. A date or a time may be given as text; a datetime without a time zone is local time.

    Raises
    ------
    SourceError
        There is no such column, or its values cannot be compared with the filter's.
    """
    import pyarrow as pa
    from pyarrow.parquet import filters_to_expression

    if filters is None:
        return None
    expression = None
    try:
        if _is_expression(filters):
            expression = filters
        elif _is_term(filters[0]):
            expression = filters_to_expression([_typed(term, schema) for term in filters])
        else:
            expression = filters_to_expression([[_typed(term, schema) for term in part] for part in filters])
        apply(expression, schema)
    except (pa.ArrowException, TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, SourceError):
            raise
        columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
        shown = filters if expression is None else expression
        hint = ""
        if "timezone" in str(error) or "time zone" in str(error):
            hint = "; compare moments with datetimes that have a time zone (tzinfo), other times with datetimes that have none"
        why = str(error)
        if lacking := _FIELD.search(why):
            why = f"there is no column {lacking[1]!r}{meant([lacking[1]], schema.names)}"
        raise SourceError(f"the filter {shown} does not fit the columns ({columns}): {why}{hint}") from error
    return expression


def apply(expression: Expression, schema: Any) -> None:
    """Raise ``pyarrow.ArrowException`` when the expression does not fit the columns."""
    import pyarrow as pa
    from pyarrow import dataset

    # Arrow finds out only by a row that it cannot compare moments with times without a zone.
    row = pa.Table.from_arrays([pa.nulls(1, kind) for kind in schema.types], schema.names)
    dataset.dataset(row).scanner(columns=[], filter=expression).to_table()


def names(expression: Expression | None, name: str, schema: Any) -> bool:
    """Whether the expression needs a column: pyarrow does not tell, but the expression does not fit a schema without it."""
    import pyarrow as pa

    if expression is None:
        return False
    try:
        apply(expression, schema.remove(schema.get_field_index(name)))
    except pa.ArrowException:
        return True
    return False


def unfit(expression: Any, path: str, error: Exception) -> SourceError:
    """Make the error for a filter that Arrow cannot apply to the values of a file."""
    shown = " ".join(str(expression).split())
    return SourceError(f"the filter {shown} cannot be applied to {path}: {error}; compare with values of the column's type")


def misleads(expression: Expression, column: Any, schema: Any) -> bool:
    """Whether the least and greatest floats of a row group do not say that it has no row which the filter wants.

    They leave out NaN, and take -0.0 and 0.0 for the same, which ``isin`` does not.

    Parameters
    ----------
    expression : pyarrow.compute.Expression
    column : pyarrow.Field
    schema : pyarrow.Schema
        Of all columns.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    def may_hold(path: list[str], value: float, kind: Any) -> bool:
        return _may_hold(expression, pc.field(*path) == pa.scalar(value, kind), schema)

    for path, kind in _floats([column.name], column.type):
        if pa.types.is_float16(kind) or may_hold(path, math.nan, kind) or may_hold(path, 0.0, kind) != may_hold(path, -0.0, kind):
            return True
    return False


def _floats(path: list[str], kind: Any) -> Iterator[tuple[list[str], Any]]:
    """The floats that an expression can name: their paths and types."""
    import pyarrow as pa

    if pa.types.is_floating(kind):
        yield path, kind
    elif pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            yield from _floats([*path, kind.field(i).name], kind.field(i).type)


def _may_hold(expression: Expression, guarantee: Expression, schema: Any) -> bool:
    """Whether the filter can want a row for which the guarantee holds. pyarrow tells it of files only; this one is not opened."""
    from pyarrow import dataset, fs

    form, system = dataset.ParquetFileFormat(), fs.LocalFileSystem()
    file = form.make_fragment("no file", system, guarantee)
    return any(True for _ in dataset.FileSystemDataset([file], schema, form, system).get_fragments(expression))


def _is_expression(filters: Any) -> bool:
    try:
        from pyarrow.dataset import Expression
    except ImportError:
        return False
    return isinstance(filters, Expression)


def _is_term(part: Any) -> bool:
    return isinstance(part, list | tuple) and len(part) == 3 and isinstance(part[0], str) and isinstance(part[1], str)


def _check_term(term: Any) -> None:
    if not _is_term(term):
        raise ValueError(f"{_FORM}; not {term!r:.200}")
    name, operator, value = term
    if operator not in _OPERATORS:
        raise ValueError(f"the filter {term!r} has the operator {operator!r}; the operators are {', '.join(_OPERATORS)}")
    if operator.endswith("in"):
        if isinstance(value, str | bytes) or not isinstance(value, Sequence | set | frozenset):
            raise ValueError(f"the filter {term!r}: {operator!r} takes a list of values: ({name!r}, {operator!r}, [{value!r}])")
    elif value is None:
        sign = "~" if operator == "!=" else ""
        raise ValueError(
            f"the filter {term!r} holds for no row, since null is equal to nothing; for rows with null write the expression "
            f"{sign}pyarrow.compute.field({name!r}).is_null()"
        )


def _typed(term: Any, schema: Any) -> tuple[str, str, Any]:
    """The condition with a value of the column's type where Arrow does not convert it."""
    import pyarrow as pa

    name, operator, value = term
    at = schema.get_field_index(name)
    if at < 0:
        return name, operator, value
    kind = schema.field(at).type
    if operator.endswith("in"):
        values = [_value(each, kind) for each in value]
        if pa.types.is_floating(kind) and 0 in values:
            values += [0.0, -0.0]  # equal for every operator but Arrow's ``isin``
        if pa.types.is_integer(kind):
            values = [int(each) if _is_float(each) and float(each).is_integer() else each for each in values]
        return name, operator, values
    if pa.types.is_integer(kind) and _is_float(value) and (float(value).is_integer() or operator in ("<", "<=", ">", ">=")):
        # Arrow would compare as float32, which holds integers up to 2**24.
        return name, operator, math.ceil(value) if operator in ("<", ">=") else math.floor(value)
    return name, operator, _value(value, kind)


def _is_float(value: Any) -> bool:
    return isinstance(value, float | np.floating) and math.isfinite(value)


def _value(value: Any, kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_uint64(kind) and isinstance(value, int) and 2**63 <= value < 2**64:
        return pa.scalar(value, kind)
    if isinstance(value, np.datetime64):
        value = value.astype("M8[us]").item()
    elif hasattr(value, "to_pydatetime"):  # pandas.Timestamp
        value = value.to_pydatetime(warn=False)
    if pa.types.is_decimal(kind) and isinstance(value, int | np.integer | str):
        return Decimal(str(value))
    if pa.types.is_date(kind) and isinstance(value, str):
        return date.fromisoformat(value)
    if not pa.types.is_timestamp(kind):
        return value
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if kind.tz and isinstance(value, datetime) and value.tzinfo is None:
        return value.astimezone(timezone.utc)
    return value
