"""Two views of a feed's columns joined; what is declared of them: types (a spec), and what becomes of nulls.

Feeders infer from their first rows and may differ; :func:`join` gives a schema that holds both. It is commutative (up
to the order of the columns) and idempotent, and what fitted one side fits the result.

========================  ===============================  =========================================================
difference                row mode                         column mode
========================  ===============================  =========================================================
none                      the same                         the same
two numeric types         *object*                         the smallest type that holds both (``_convert.promote``)
                                                           (int64 + float64 -> float64, bool + int -> int);
                                                           *object* when integers alone would become floats
                                                           (int64 + uint64)
lengths                   *object*                         *ragged*; lists without items take the other's type
None and something        *object*                         something, and what the policy for nulls says
depth, or kind of column  *object*                         *object*; refused where one of them is dates, times or
                                                           durations, which are numbers by then
number or names of        one bare *object* column         :class:`~tfos_fast.errors.SchemaMismatch`; fields that some
columns                                                    structs lack are None there (``struct_fields.py``)
structure                 one bare *object* column         the same when the names are, however rows hold them
========================  ===============================  =========================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import msgspec
import numpy as np

from tfos_fast.channel.schema.columns import OBJECT_ROWS, Column, Fill, Octets, Schema, describe, no_policy
from tfos_fast.channel.schema.detect import infer, nested_column
from tfos_fast.channel.schema.struct_fields import aligned, lacking, policy_names, with_fields
from tfos_fast.errors import SchemaMismatch
from tfos_fast.values import nested
from tfos_fast.values.dtypes import DTYPES, as_array, can_cast, cast_values, dtype_of, plain_fill
from tfos_fast.values.spelling import meant, quoted

#: What a row's value is declared to be: element type and shape (None: any).
Declared = tuple[str, tuple[int, ...] | None]


class Nulls(msgspec.Struct, frozen=True):
    """What becomes of None in a column: a value, and with ``mask`` also a column of bools that says which rows have one."""

    fill: Fill = None
    mask: bool = False


#: Units of numbers that share no column with values of any other kind, and the mark of a column where it has happened.
_APART = {"date", "timestamp", "duration", "mixed"}
#: The policy under this name is for every column without one of its own.
EVERY = "*"


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
        outlines = f"{outline(a)} and {outline(b)}"
        if "bare" not in (a.structure, b.structure):
            a, b = aligned(a, b)
        if "bare" in (a.structure, b.structure) or sorted(a.names) != sorted(b.names):
            raise SchemaMismatch(f"rows differ in structure: {outlines}")
        by_name = {column.name: column for column in b.columns}
        b = Schema(b.structure, tuple(by_name[name] for name in a.names), b.structs)
    structure = a.structure if a.structure == b.structure else "row"
    pairs = zip(a.columns, b.columns, strict=True)
    columns = tuple(_join_columns(x, y, exact) for x, y in pairs)
    return Schema(structure, columns, tuple(sorted({*a.structs, *b.structs})))


def outline(schema: Schema) -> str:
    """Say for messages what holds a row's values, and their names."""
    if schema.structure == "bare":
        return f"a bare {describe(schema.columns[0])}"
    names = schema.names
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"a {schema.structure} of {len(names)} ({shown})"


def _join_columns(a: Column, b: Column, exact: bool) -> Column:
    if a == b:
        return a
    if exact:
        return Column(a.name, "object")
    ruled = a if a.nulls in ("fill", "mask") else b
    nulls = ruled.nulls or a.nulls
    joined = _join_values(a, b)
    return msgspec.structs.replace(joined, nulls="" if joined.kind == "object" else nulls, fill=ruled.fill)


def _join_values(a: Column, b: Column) -> Column:
    if "null" in (a.kind, b.kind):
        return b if a.kind == "null" else a
    if a.kind == b.kind and a.kind in ("string", "bytes"):
        return a
    if {a.kind, b.kind} <= {"fixed", "ragged"}:
        form = nested.meet(*((nested.with_unit(column.dtype, column.unit), column.shape) for column in (a, b)))
        if form is not None:
            joined = nested_column(a.name, *form)
            # Bytes meet what has no tag, since that may have had nothing but nulls: lists are then refused by the packer.
            return msgspec.structs.replace(joined, python=a.python or b.python) if joined.kind == "fixed" else joined
    units = {a.unit, b.unit}
    return Column(a.name, "object", unit="beyond" if "beyond" in units else "mixed" if units & _APART else "")


# ---- what is declared ----


def apply_spec(schema: Schema, spec: dict[str, Declared]) -> Schema:
    """Apply declared element types; the cast then happens while rows are packed.

    Parameters
    ----------
    schema : Schema
        As inferred, in column mode.
    spec : dict of str to (str, tuple of int or None)
        For some columns the numpy type name (or ``"string"``, ``"bytes"``, ``"object"``) and the shape of one row's
        value, None to take the shape as it is; ANY_LENGTH (-1) for dimensions that differ from row to row.

    Returns
    -------
    Schema

    Raises
    ------
    SchemaMismatch
        When the spec names a column that is not there, another shape, or a cast that :func:`can_cast` does not allow.
    """
    schema = with_fields(schema, spec, known=True)
    unknown = [name for name in spec if name not in schema.names]
    if unknown:
        raise _unknown("the spec", unknown, schema)
    return _with_columns(schema, (_declare(column, spec.get(column.name)) for column in schema.columns))


def _with_columns(schema: Schema, columns: Iterable[Column]) -> Schema:
    return Schema(schema.structure, tuple(columns), schema.structs)


def by_position(spec: dict[str, Declared], names: Sequence[str]) -> dict[str, Declared]:
    """A tuple's spec under the columns' own names, where these are others than those of tuple rows.

    Raises
    ------
    SchemaMismatch
        There are not as many columns.
    """
    if not spec or set(spec) <= set(names) or list(names) == [f"c{i}" for i in range(len(names))]:
        return spec
    if len(spec) != len(names):
        raise SchemaMismatch(
            f"the spec is a tuple of {len(spec)}, and the rows have {len(names)} columns with names ({', '.join(names)}): give the "
            "spec an entry for each column, or make it a dict of names"
        )
    return dict(zip(names, spec.values(), strict=True))


def _unknown(what: str, unknown: list[str], schema: Schema) -> SchemaMismatch:
    there = schema.names
    hint = meant(unknown, there)
    if not hint and list(there) == [f"c{i}" for i in range(len(there))]:
        hint = "; the columns of tuples are called c0, c1, ..."
    return SchemaMismatch(f"{what} names {quoted(unknown)}; the feed has the columns {', '.join(there)}{hint}")


def leave_out(schema: Schema, named: Collection[str]) -> Schema:
    """The schema with all columns but the named ones unused."""
    named = frozenset(named)
    return _with_columns(schema, (c if c.name in named else Column(c.name, "unused") for c in schema.columns))


def _declare(column: Column, declared: Declared | None) -> Column:
    if declared is None:
        return column
    dtype, shape = declared
    dtype = {"str": "string"}.get(dtype, dtype)
    where = f"column {column.name!r}: the spec says"
    if dtype == "object":
        return Column(column.name, "object")
    lists = column.kind == "ragged" or 0 in column.shape
    if dtype in nested.TEXTS and not shape and not (shape is None and lists):
        if column.kind not in (dtype, "null") and not (dtype == "string" and column.kind == "bytes"):
            raise SchemaMismatch(f"{where} {dtype}, the rows have {describe(column)}{_fitting(column)}")
        return column if column.kind != "null" else msgspec.structs.replace(column, kind=dtype)
    if dtype not in DTYPES and dtype not in nested.TEXTS:
        try:
            dtype = dtype_of(dtype).name
        except TypeError:
            dtype = ""
    if dtype not in DTYPES and dtype not in nested.TEXTS:
        raise SchemaMismatch(f"{where} {declared[0]!r}, which is none of {', '.join(sorted(DTYPES))}, string, bytes, object")
    target = nested_column(column.name, dtype, column.shape if shape is None else tuple(shape))
    python = column.python if target.kind == column.kind else ""
    target = msgspec.structs.replace(target, nulls=column.nulls, fill=column.fill, python=python)
    empty = is_empty(column)
    if dtype not in nested.TEXTS:
        target = msgspec.structs.replace(target, unit=column.unit or ("?" if empty else ""))
    if column.kind == "null":
        return target
    if column.kind == "bytes" and shape and target.kind == "fixed" and dtype != "bool":
        return msgspec.structs.replace(target, python="bytes")  # raw images, say: the memory of so many numbers
    if column.kind not in ("fixed", "ragged") or not _holds(target.shape, column.shape):
        hint = "; tf.RaggedTensorSpec, or a length of None, takes lists of any length" if column.kind == "ragged" else ""
        hint = " (of several kinds, or with None inside a list: replace it before it is fed)" if column.kind == "object" else hint
        hint = "; with a shape, byte strings are the memory of so many numbers" if column.kind == "bytes" else hint
        raise SchemaMismatch(f"{where} {describe(target)}, the rows have {describe(column)}{hint or _fitting(column)}")
    if dtype != column.dtype and not empty and (dtype in nested.TEXTS or column.dtype in nested.TEXTS):
        raise SchemaMismatch(f"{where} {describe(target)}, the rows have {describe(column)}{_fitting(column)}")
    if not empty and dtype not in nested.TEXTS and not can_cast(column.dtype, dtype, cast=True):
        raise SchemaMismatch(f"{where} {dtype}, the rows have {column.dtype}, which would lose values{_fitting(column)}")
    return target


def is_empty(column: Column) -> bool:
    """Whether it has had nothing but lists without items, which are of any type."""
    return 0 in column.shape or column.unit == "?"


def _fitting(column: Column) -> str:
    """For errors: the entry of a spec that takes the column's values as they are, and what else helps."""
    entry = entry_of(column)
    return f"; write {entry!r} in the spec, or convert the column before it is fed" if entry else ""


def entry_of(column: Column) -> object:
    """What a spec says of a column whose values are to stay as they are; None where no spec does."""
    if column.kind not in ("fixed", "ragged", "string", "bytes"):
        return None
    entry = column.dtype or column.kind
    if not column.shape:
        return entry
    return entry, tuple(None if length == nested.ANY_LENGTH else length for length in column.shape)


def _holds(target: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    if shape and shape[-1] == 0:  # lists without items are of any depth
        shape += target[len(shape) :]
    return len(target) == len(shape) and all(a in (b, nested.ANY_LENGTH) for a, b in zip(target, shape, strict=True))


def has_policy(name: str, policies: dict[str, Nulls]) -> bool:
    """Whether something is declared of a column's None."""
    return any(each in policies for each in (*policy_names(name), EVERY))


def apply_nulls(schema: Schema, policies: dict[str, Nulls], typed: Collection[str] = ()) -> Schema:
    """Apply what is declared of nulls. A column whose rows have None and that has no policy becomes one of objects.

    ``typed``: the columns for which a spec declares a type, and which so cannot become objects.

    Raises
    ------
    SchemaMismatch
        A policy names a column that is not there, its value is none that the column takes, or its mask's name is taken; or a typed
        column has None and no policy.
    """
    schema = with_fields(schema, policies, known=False)
    known = {EVERY, *schema.names, *schema.structs}
    unknown = [name for name in policies if name not in known and not lacking(schema, name)]
    if unknown:
        raise _unknown("nulls", unknown, schema)
    common = policies.get(EVERY)
    own = {name: next((policies[each] for each in policy_names(name) if each in policies), None) for name in schema.names}
    ruled = _with_columns(schema, (_rule(c, own[c.name], common, typed=c.name in typed) for c in schema.columns))
    outputs = [column.name for column in ruled.outputs]
    taken = sorted(name for name, count in Counter(outputs).items() if count > 1)
    if taken:
        raise SchemaMismatch(
            f"the mask of a column would be called {taken[0]!r}, as another column is: rename that, or fill the nulls"
        )
    return ruled


def _rule(column: Column, own: Nulls | None, common: Nulls | None, *, typed: bool) -> Column:
    policy = own or common
    if column.kind == "unused" or (policy is None and column.nulls in ("fill", "mask")):
        return column
    if column.kind == "object":  # None stays None, if nothing is written for it
        return column if policy is None or policy.mask else msgspec.structs.replace(column, nulls="fill", fill=policy.fill)
    if policy is not None:
        ruled = msgspec.structs.replace(column, nulls="mask" if policy.mask else "fill", fill=policy.fill)
        # A vector whose lengths may differ later, and which takes no value then, has one only once there is a None for it.
        open_ = own is None and column.kind == "fixed" and column.shape and column.nulls != "seen" and not policy.mask
        if fits(ruled) and not open_:
            return ruled
        if own is not None or column.nulls == "seen" or column.kind == "null":
            found = f"its nulls are to become {policy.fill!r}, the rows have {describe(column)}"
            lists = "; None becomes a list without items there: say tfos_fast.MASK" if column.kind == "ragged" else ""
            raise SchemaMismatch(f"column {column.name!r}: {found}{lists}")
        return msgspec.structs.replace(column, nulls="", fill=None)
    if column.nulls and typed:
        none = no_policy(column.name, "''" if column.kind in nested.TEXTS else "0")
        raise SchemaMismatch(f"column {column.name!r}: the spec says {describe(column)}, the rows have {none}")
    # What has had nothing but None may still turn out to be anything, a struct, too: see `settle`.
    return _of_objects(column) if column.nulls and column.kind != "null" else column


def _of_objects(column: Column) -> Column:
    """The column with None as it is, and otherwise the same values as without; what fits no more is told by the packer."""
    if column.unit == "?":
        return Column(column.name, "object")
    dtype = column.kind if column.kind in nested.TEXTS else column.dtype
    return Column(column.name, "object", dtype, column.shape, unit=column.unit or "number")


def fits(column: Column) -> bool:
    """Whether the column takes the value that stands for its nulls."""
    if column.fill is None or column.kind in ("null", "object"):
        return True
    if column.kind == "ragged":
        return False  # a null is a list without items there
    if column.kind in ("string", "bytes"):
        return _is_text(column.fill, column.kind)
    return isinstance(column.fill, bool | int | float) and _is_number(column.fill, column.dtype)


def _is_text(fill: Fill, kind: str) -> bool:
    """Byte strings stand for text in UTF-8, text for byte strings in Latin-1."""
    if isinstance(fill, Octets):
        return kind == "bytes" or _is_utf8(fill.data)
    return isinstance(fill, str) and (kind == "string" or max(fill, default="") <= "\xff")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_number(fill: float, dtype: str) -> bool:
    """Whether a column of numbers has the value. Floats are rounded to its type, whole numbers are not. 0 and 1 are bools."""
    kind = dtype_of(dtype).kind
    if kind == "b":
        return fill in (0, 1)
    if isinstance(fill, float) and kind in "iu":
        if not fill.is_integer():
            return False
        fill = int(fill)
    value = as_array(fill)
    cast = None if value is None else cast_values(value, dtype, cast=True)
    if cast is None or kind in "iu":
        return cast is not None
    return bool(cast == fill) if isinstance(fill, int) else not np.isfinite(fill) or bool(np.isfinite(cast))


def settle(schema: Schema) -> Schema:
    """Columns of nothing but nulls take the type of what stands for them: float64 with a mask, objects without a policy."""
    return _with_columns(schema, map(_settled, schema.columns))


def _settled(column: Column) -> Column:
    if column.kind != "null":
        return column
    if column.nulls == "seen":
        return Column(column.name, "object")
    like = infer(0.0 if column.fill is None else plain_fill(column.fill), exact=False).columns[0]
    return msgspec.structs.replace(like, name=column.name, nulls=column.nulls, fill=column.fill)
