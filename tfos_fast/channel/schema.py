"""What the rows of a feed look like: columns, how they are inferred from rows, and how two views of them are joined.

There are two modes, chosen by the reader and written ``exact`` here:

* **row mode** (``exact=True``): every value must come back equal and of the same Python type. A column that cannot
  promise this is of kind *object* (its values travel pickled), and so no row is ever refused.
* **column mode** (``exact=False``): the reader gets arrays, so a list of floats, a tuple of floats and a float64
  array are the same column.

The lattice
-----------
Feeders infer from their first rows and may differ; :func:`join` gives a schema that holds both. It is commutative (up
to the order of the columns) and idempotent, and what fitted one side fits the result.

========================  ===============================  =========================================================
difference                row mode                         column mode
========================  ===============================  =========================================================
none                      the same                         the same
two numeric types, same   *object*                         the promoted type when numpy calls both casts safe
shape                                                      (int64 + float64 -> float64, bool + int -> int);
                                                           *object* when integers alone would become floats
                                                           (int64 + uint64)
shape, or kind of column  *object*                         *object*
number or names of        one bare *object* column         :class:`~tfos_fast.errors.SchemaMismatch`
columns
structure                 one bare *object* column         the same when the names are, however rows hold them
========================  ===============================  =========================================================
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
import numpy as np

from tfos_fast._convert import (
    DTYPES,
    INT64_MAX,
    INT64_MIN,
    LEAVES,
    are_names,
    as_array,
    can_cast,
    encodable,
    is_packable,
    is_spark_row,
    row_names,
)
from tfos_fast.errors import SchemaMismatch

Kind = Literal["fixed", "string", "bytes", "object"]
Structure = Literal["tuple", "list", "dict", "row", "bare"]

#: Bytes of one (offset, length) pair, which a column that is not fixed has for each row.
ENTRY_BYTES = 8
MAX_DIMS = 16
# Row mode: a longer list or tuple of numbers of one type is one column, not one per number; the reader cannot tell.
WIDE = 16
# Row mode: a longer list or tuple of mixed things is one object: thousands of columns cost more than they bring.
WIDEST = 1024


class Column(msgspec.Struct, frozen=True):
    """One column of a slot.

    Parameters
    ----------
    name : str
        Its name; unique in column mode.
    kind : {"fixed", "string", "bytes", "object"}
        Fixed-shape numbers, UTF-8 text, byte strings, or pickled values.
    dtype : str
        For fixed columns the numpy name of the element type, one of :data:`DTYPES`.
    shape : tuple of int
        For fixed columns the shape of one row's value.
    python : str
        Row mode only: what the value is when it goes back. ``"float"``, ``"int"``, ``"bool"``; nested sequences from
        the outside in, such as ``"list/tuple/float"``; ``"ndarray"``, ``"npscalar"``; ``"bytearray"`` for a bytes
        column. Empty in column mode.
    """

    name: str
    kind: Kind
    dtype: str = ""
    shape: tuple[int, ...] = ()
    python: str = ""

    @property
    def row_bytes(self) -> int:
        """Bytes that one row takes in the column's region: the value itself, or where it lies in the heap."""
        if self.kind != "fixed":
            return ENTRY_BYTES
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


class Schema(msgspec.Struct, frozen=True):
    """The columns of a feed and what a row of it is.

    Parameters
    ----------
    structure : {"tuple", "list", "dict", "row", "bare"}
        What holds the values of one row. ``"row"`` is pyspark's ``Row`` (in column mode also a named tuple); ``"bare"``
        means that the row itself is the value of the only column.
    columns : tuple of Column
        In the order of the row's values.
    """

    structure: Structure
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(column.name for column in self.columns)


#: The top of the row-mode lattice: whole rows, pickled.
OBJECT_ROWS = Schema("bare", (Column("c0", "object"),))


def describe(column: Column) -> str:
    """Say in a few words what a column holds, for messages."""
    if column.kind != "fixed":
        return column.python or column.kind
    shape = "" if column.shape == () else str(list(column.shape)).replace(" ", "")
    return f"{column.dtype}{shape}" + (f" ({column.python})" if column.python else "")


# ---- inference ----


def infer(row: Any, *, exact: bool) -> Schema:
    """Find the schema that fits one row.

    Parameters
    ----------
    row : object
        A tuple or list gives the columns ``c0, c1, ...``; a dict with string keys, a pyspark Row and (in column mode) a
        named tuple give columns of their names; anything else is one bare column ``c0``.
    exact : bool
        True for row mode, False for column mode.

    Returns
    -------
    Schema

    Raises
    ------
    SchemaMismatch
        In column mode, when two columns of the row have the same name.
    """
    return _infer_exact(row) if exact else _infer_columns(row)


def _infer_exact(row: Any) -> Schema:
    kind = type(row)
    if kind is tuple or kind is list:
        if len(row) > WIDE:
            nested = _exact_nested("c0", row)
            if nested is not None:
                return Schema("bare", (nested,))
            if len(row) > WIDEST:
                return OBJECT_ROWS
        columns = tuple(_exact_column(f"c{i}", value) for i, value in enumerate(row))
        return Schema("tuple" if kind is tuple else "list", columns)
    if kind is dict and are_names(row):
        return Schema("dict", tuple(_exact_column(name, value) for name, value in row.items()))
    if is_spark_row(row):
        names = row_names(row)
        if names is not None:
            return Schema("row", tuple(map(_exact_column, names, row)))
    return Schema("bare", (_exact_column("c0", row),))


def _infer_columns(row: Any) -> Schema:
    names = row_names(row)
    if names is not None:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise duplicates(twice)
        return Schema("row", tuple(map(_column, names, row)))
    if isinstance(row, (tuple, list)):
        return Schema("tuple", tuple(_column(f"c{i}", value) for i, value in enumerate(row)))
    if isinstance(row, dict) and are_names(row):
        return Schema("dict", tuple(_column(name, value) for name, value in row.items()))
    return Schema("bare", (_column("c0", row),))


def duplicates(names: list[str]) -> SchemaMismatch:
    """Make the error for columns of one name, which a dict of arrays cannot hold."""
    return SchemaMismatch(f"several columns are called {', '.join(map(repr, names))}; give each a name of its own")


def _exact_column(name: str, value: Any) -> Column:
    """Row mode: the column from which exactly this value comes back. A subclass (np.float64!) is an object."""
    kind = type(value)
    if kind is float or kind is bool or (kind is int and INT64_MIN <= value <= INT64_MAX):
        return Column(name, "fixed", LEAVES[kind], (), kind.__name__)
    if kind is str and encodable(value):
        return Column(name, "string")
    if kind is bytes:
        return Column(name, "bytes")
    if kind is bytearray:
        return Column(name, "bytes", python="bytearray")
    if kind is np.ndarray and is_packable(value.dtype) and value.dtype.isnative:
        return Column(name, "fixed", value.dtype.name, value.shape, "ndarray")
    if isinstance(value, np.generic) and is_packable(value.dtype) and kind is np.dtype(value.dtype.name).type:
        return Column(name, "fixed", value.dtype.name, (), "npscalar")
    if kind is list or kind is tuple:
        nested = _exact_nested(name, value)
        if nested is not None:
            return nested
    return Column(name, "object")


def _exact_nested(name: str, value: Any) -> Column | None:
    shape: list[int] = []
    levels: list[type] = []
    inner: Any = value
    while type(inner) is list or type(inner) is tuple:
        if len(shape) == MAX_DIMS:
            return None
        shape.append(len(inner))
        levels.append(type(inner))
        if not inner:
            inner = 0.0  # nothing inside: any type of number does
            break
        inner = inner[0]
    leaf = type(inner)
    if leaf not in LEAVES or not _is_regular(value, levels, shape, 0, leaf):
        return None
    tag = "/".join(kind.__name__ for kind in [*levels, leaf])
    return Column(name, "fixed", LEAVES[leaf], tuple(shape), tag)


def _is_regular(value: Any, levels: list[Any], shape: list[int], depth: int, leaf: Any) -> bool:
    if depth == len(shape):
        return type(value) is leaf and (leaf is not int or INT64_MIN <= value <= INT64_MAX)
    if type(value) is not levels[depth] or len(value) != shape[depth]:
        return False
    return all(_is_regular(item, levels, shape, depth + 1, leaf) for item in value)


def _column(name: str, value: Any) -> Column:
    if isinstance(value, str):
        return Column(name, "string" if encodable(value) else "object")
    if isinstance(value, (bytes, bytearray)):
        return Column(name, "bytes")
    array = as_array(value)
    if array is None:
        return Column(name, "object")
    return Column(name, "fixed", array.dtype.name, array.shape)


# ---- the lattice ----


def join(a: Schema, b: Schema, *, exact: bool) -> Schema:
    """Give the smallest schema that holds the rows of both; see the lattice at the top of this module.

    Raises
    ------
    SchemaMismatch
        In column mode, when number or names of the columns differ. Tuples, Rows and dicts with the same names go together,
        in the order of the first.
    """
    if a == b:
        return a
    if a.structure != b.structure or a.names != b.names:
        if exact:
            return OBJECT_ROWS
        if "bare" in (a.structure, b.structure) or sorted(a.names) != sorted(b.names):
            raise SchemaMismatch(f"rows differ in structure: {_outline(a)} and {_outline(b)}")
        by_name = {column.name: column for column in b.columns}
        b = Schema(b.structure, tuple(by_name[name] for name in a.names))
    structure = a.structure if a.structure == b.structure else "row"
    pairs = zip(a.columns, b.columns, strict=True)
    return Schema(structure, tuple(_join_columns(x, y, exact) for x, y in pairs))


def _outline(schema: Schema) -> str:
    if schema.structure == "bare":
        return f"a bare {describe(schema.columns[0])}"
    names = schema.names
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"a {schema.structure} of {len(names)} ({shown})"


def _join_columns(a: Column, b: Column, exact: bool) -> Column:
    if a == b:
        return a
    if not exact and a.kind == b.kind == "fixed" and a.shape == b.shape:
        promoted = np.promote_types(a.dtype, b.dtype)
        kinds = np.dtype(a.dtype).kind + np.dtype(b.dtype).kind
        lossy = promoted.kind in "fc" and not set(kinds) & set("fc")
        if not lossy and promoted.name in DTYPES and all(can_cast(x.dtype, promoted.name, cast=False) for x in (a, b)):
            return Column(a.name, "fixed", promoted.name, a.shape)
    return Column(a.name, "object")


def apply_spec(schema: Schema, spec: dict[str, tuple[str, tuple[int, ...] | None]]) -> Schema:
    """Apply declared element types; the cast then happens while rows are packed.

    Parameters
    ----------
    schema : Schema
        As inferred, in column mode.
    spec : dict of str to (str, tuple of int or None)
        For some columns the numpy type name (or ``"string"``, ``"bytes"``, ``"object"``) and the shape of one row's
        value, None to take the shape as it is.

    Returns
    -------
    Schema

    Raises
    ------
    SchemaMismatch
        When the spec names a column that is not there, another shape, or a cast that :func:`can_cast` does not allow.
    """
    unknown = [name for name in spec if name not in schema.names]
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise SchemaMismatch(f"the spec names {names}; the feed has the columns {', '.join(schema.names)}")
    return Schema(schema.structure, tuple(_declare(column, spec.get(column.name)) for column in schema.columns))


def _declare(column: Column, declared: tuple[str, tuple[int, ...] | None] | None) -> Column:
    if declared is None:
        return column
    dtype, shape = declared
    where = f"column {column.name!r}: the spec says"
    if dtype == "object":
        return Column(column.name, "object")
    kind = {"str": "string", "string": "string", "bytes": "bytes"}.get(dtype)
    if kind is not None:
        if column.kind != kind:
            raise SchemaMismatch(f"{where} {kind}, the rows have {describe(column)}")
        return column
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = dtype
    if name not in DTYPES:
        raise SchemaMismatch(f"{where} {dtype!r}, which is none of {', '.join(sorted(DTYPES))}, string, bytes, object")
    target = Column(column.name, "fixed", name, column.shape if shape is None else tuple(shape))
    if column.kind != "fixed" or column.shape != target.shape:
        raise SchemaMismatch(f"{where} {describe(target)}, the rows have {describe(column)}")
    if not can_cast(column.dtype, name, cast=True):
        raise SchemaMismatch(f"{where} {name}, the rows have {column.dtype}, which would lose values")
    return target
