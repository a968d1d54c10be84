"""What the rows of a feed look like: columns, how they are inferred from rows, and how two views of them are joined.

There are two modes, chosen by the reader and written ``exact`` here:

* **row mode** (``exact=True``): every value must come back equal and of the same Python type. A column that cannot
  promise this is of kind *object* (its values travel pickled), and so no row is ever refused.
* **column mode** (``exact=False``): the reader gets arrays, so a list of floats, a tuple of floats and a float64
  array are the same column.

The lattice
-----------
Feeders infer from their first rows and may differ; :func:`join` gives a schema that holds both. It is commutative (up
to the order of a dict's keys) and idempotent, and what fitted one side fits the result.

========================  ===============================  =========================================================
difference                row mode                         column mode
========================  ===============================  =========================================================
none                      the same                         the same
two numeric types, same   *object*                         the promoted type when numpy calls both casts safe
shape                                                      (int64 + float64 -> float64, bool + int -> int);
                                                           *object* when integers alone would become floats
                                                           (int64 + uint64)
shape, or kind of column  *object*                         *object*
structure, number or      one bare *object* column         :class:`~tfos_fast.errors.SchemaMismatch`
names of columns
========================  ===============================  =========================================================
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np

from tfos_fast.errors import SchemaMismatch

Kind = Literal["fixed", "string", "bytes", "object"]
Structure = Literal["tuple", "list", "dict", "row", "bare"]

#: Element types of fixed columns. Everything else travels as an object.
DTYPES = frozenset(
    [
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    ]
)
#: What a Python number is taken for.
LEAVES: dict[type, str] = {float: "float64", int: "int64", bool: "bool"}
MAX_DIMS = 16
# Row mode: a longer list or tuple of numbers of one type is one column, not one per number; the reader cannot tell.
WIDE = 16
# Row mode: a longer list or tuple of mixed things is one object: thousands of columns cost more than they bring.
WIDEST = 1024
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


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


def is_spark_row(row: object) -> bool:
    """Whether this is exactly pyspark's ``Row`` with names (found by its name: pyspark is not imported here)."""
    kind = type(row)
    return kind.__name__ == "Row" and kind.__module__ == "pyspark.sql.types" and hasattr(row, "__fields__")


def row_names(row: Any) -> tuple[str, ...] | None:
    """Names of the values of a Row or named tuple; None for anything else."""
    if not isinstance(row, tuple) or type(row) is tuple:
        return None
    fields = getattr(row, "__fields__", None)
    if fields is None:
        fields = getattr(row, "_fields", None)
    if not isinstance(fields, (list, tuple)) or len(fields) != len(row) or not _are_names(fields):
        return None
    return tuple(fields)


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
    if kind is dict and _are_names(row):
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
    if isinstance(row, dict) and _are_names(row):
        return Schema("dict", tuple(_column(name, value) for name, value in row.items()))
    return Schema("bare", (_column("c0", row),))


def duplicates(names: list[str]) -> SchemaMismatch:
    """Make the error for columns of one name, which a dict of arrays cannot hold."""
    return SchemaMismatch(f"several columns are called {', '.join(map(repr, names))}; give each a name of its own")


def _are_names(names: Any) -> bool:
    return all(type(name) is str and _encodable(name) for name in names)


def _encodable(text: str) -> bool:
    # A lone surrogate has no UTF-8 form.
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _exact_column(name: str, value: Any) -> Column:
    """Row mode: the column from which exactly this value comes back. A subclass (np.float64!) is an object."""
    kind = type(value)
    if kind is float or kind is bool or (kind is int and INT64_MIN <= value <= INT64_MAX):
        return Column(name, "fixed", LEAVES[kind], (), kind.__name__)
    if kind is str and _encodable(value):
        return Column(name, "string")
    if kind is bytes:
        return Column(name, "bytes")
    if kind is bytearray:
        return Column(name, "bytes", python="bytearray")
    if kind is np.ndarray and _is_packable(value.dtype) and value.dtype.isnative:
        return Column(name, "fixed", value.dtype.name, value.shape, "ndarray")
    if isinstance(value, np.generic) and _is_packable(value.dtype) and kind is np.dtype(value.dtype.name).type:
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
        return Column(name, "string" if _encodable(value) else "object")
    if isinstance(value, (bytes, bytearray)):
        return Column(name, "bytes")
    array = as_array(value)
    if array is None:
        return Column(name, "object")
    return Column(name, "fixed", array.dtype.name, array.shape)


def _is_packable(dtype: np.dtype) -> bool:
    return dtype.kind in "biufc" and dtype.name in DTYPES


def as_array(value: Any) -> np.ndarray | None:
    """Column mode: the value as an array of native numbers, or None when it is not one.

    Numbers, numpy arrays and scalars, regular lists and tuples of those, and ``array.array``. A masked array is none of
    them: its mask would be lost. Copies unless the value is an array already.
    """
    if isinstance(value, np.ma.MaskedArray):
        return None
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
    elif isinstance(value, (bool, int, float, complex)):
        if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
            return None
        array = np.asarray(value)
    elif isinstance(value, (list, tuple)) or type(value).__name__ == "array":
        try:
            array = np.asarray(value)
        except (ValueError, TypeError, OverflowError):  # ragged, or no numbers
            return None
        if array.dtype == np.float64 and array.size and np.abs(array).max() >= 2**63 and _only_integers(value):
            return None  # numpy mixes int64 and uint64 into float64, which loses digits
    else:
        return None
    if not _is_packable(array.dtype):
        return None
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _only_integers(value: Any) -> bool:
    return all(isinstance(item, (int, np.integer)) for item in np.asarray(value, dtype=object).ravel())


# ---- casts and the lattice ----


def can_cast(source: str, target: str, *, cast: bool) -> bool:
    """Whether values of one element type may be written into a column of another.

    Without a declared cast only what numpy calls safe. With one (``cast=True``) also any integer to any float,
    integer to integer (each value is checked against the range) and what numpy calls same_kind (float64 to float32).
    """
    if source == target:
        return True
    if not cast:
        return bool(np.can_cast(source, target, "safe"))
    a, b = np.dtype(source).kind, np.dtype(target).kind
    if b == "b":
        return False
    return (a in "iub" and b in "iufc") or bool(np.can_cast(source, target, "same_kind"))


def values_fit(array: np.ndarray, dtype: str, *, cast: bool) -> bool:
    """Whether every value of the array may be written as this type; see :func:`can_cast`."""
    if not can_cast(array.dtype.name, dtype, cast=cast):
        return False
    target = np.dtype(dtype)
    if array.dtype.kind in "iu" and target.kind in "iu" and array.size and not np.can_cast(array.dtype, target, "safe"):
        bounds = np.iinfo(target)
        return bounds.min <= int(array.min()) and int(array.max()) <= bounds.max
    return True


def cast_values(array: np.ndarray, dtype: str, *, cast: bool) -> np.ndarray | None:
    """Give the array as a C-contiguous one of another type, copied if need be; None when a value does not fit."""
    if not values_fit(array, dtype, cast=cast):
        return None
    with np.errstate(over="ignore"):  # float64 to float32 may give inf, as a C cast does
        # Not ascontiguousarray: that makes a 0-d array one-dimensional.
        return np.asarray(array, dtype=dtype, order="C")


def join(a: Schema, b: Schema, *, exact: bool) -> Schema:
    """Give the smallest schema that holds the rows of both; see the lattice at the top of this module.

    Raises
    ------
    SchemaMismatch
        In column mode, when number or names of the columns differ. Tuples, Rows and dicts with the same names go together.
    """
    if a == b:
        return a
    if a.structure != b.structure or a.names != b.names:
        if exact:
            return OBJECT_ROWS
        if "bare" in (a.structure, b.structure) or sorted(a.names) != sorted(b.names):
            raise SchemaMismatch(f"rows differ in structure: {_outline(a)} and {_outline(b)}")
        if a.names != b.names and "dict" not in (a.structure, b.structure):
            raise SchemaMismatch(f"rows differ in the order of their columns: {_outline(a)} and {_outline(b)}")
        by_name = {column.name: column for column in b.columns}
        b = Schema(b.structure, tuple(by_name[name] for name in a.names))
    structure = a.structure if a.structure == b.structure else "row"
    return Schema(structure, tuple(_join_columns(x, y, exact) for x, y in zip(a.columns, b.columns, strict=True)))


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
