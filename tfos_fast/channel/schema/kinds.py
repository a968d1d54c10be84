"""Which columns exist, and what the decoder makes of each: one table of kinds and Python forms.

The decoder looks up here how to make a value. The vetting looks up here which values the decoder unpickles. So a column that the
vetting passes over is never unpickled, whatever it calls itself. A column that the table does not have cannot be made:
:class:`~tfos_fast.channel.schema.columns.Column` checks itself against the table, also when it is decoded from a message.

=========  =======================================  =========================  =========================
kind       Python form                              a row has (row mode)       a batch has (column mode)
=========  =======================================  =========================  =========================
fixed      empty, or ``bytes`` (raw memory)         never                      an array
fixed      ``ndarray``                              an array of its own        an array
fixed      ``npscalar``                             a scalar of numpy          an array
fixed      ``float``, ``list/int``, ...             numbers, lists, tuples     an array
ragged     empty                                    never                      ``Ragged``
string     empty                                    text                       an array of text
bytes      empty                                    bytes                      an array of bytes
bytes      ``bytearray``                            a bytearray                never
object     empty                                    what was pickled           an array of these
null       empty                                    None                       an array of None
unused     empty                                    never                      nothing
=========  =======================================  =========================  =========================
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from tfos_fast.errors import SchemaMismatch
from tfos_fast.values.dtypes import DTYPES
from tfos_fast.values.nested import ANY_LENGTH, TEXTS

if TYPE_CHECKING:
    from tfos_fast.channel.schema.columns import Column, Schema

#: What the decoder makes by unpickling, and nothing else: such values are vetted when they come over a network.
PICKLED = "object"
#: In the table, any Python form that says what the numbers are: ``"float"``, ``"list/tuple/int"``.
NUMBERS = "numbers"
#: numpy's own limit.
_MOST_DIMS = 64
#: No value is larger than a slot.
_MOST_ITEMS = 2**32

_LEVELS = frozenset(["list", "tuple"])
_LEAVES = {"b": "bool", "i": "int", "u": "int", "f": "float", "c": "complex"}
#: Element type -> what Python calls one of its numbers.
LEAF = {name: "float" if name == "bfloat16" else "bool" if name == "bool" else _LEAVES[name[0]] for name in DTYPES}


class Way(NamedTuple):
    """How the decoder makes the values of a column; None: that mode has no such column."""

    rows: str | None
    arrays: str | None


WAYS: dict[tuple[str, str], Way] = {
    ("fixed", ""): Way(None, "array"),
    ("fixed", "bytes"): Way(None, "array"),
    ("fixed", "ndarray"): Way("ndarray", "array"),
    ("fixed", "npscalar"): Way("npscalar", "array"),
    ("fixed", NUMBERS): Way(NUMBERS, "array"),
    ("ragged", ""): Way(None, "ragged"),
    ("string", ""): Way("string", "string"),
    ("bytes", ""): Way("bytes", "bytes"),
    ("bytes", "bytearray"): Way("bytearray", None),
    ("object", ""): Way(PICKLED, PICKLED),
    ("null", ""): Way("null", "null"),
    ("unused", ""): Way(None, "unused"),
}


def way_of(column: Column) -> Way:
    """Return the column's line of the table.

    Raises
    ------
    SchemaMismatch
        The table has none.
    """
    way = WAYS.get((column.kind, column.python))
    if way is None and column.kind == "fixed" and _are_numbers(column):
        way = WAYS[column.kind, NUMBERS]
    if way is None:
        raise SchemaMismatch(f"column {column.name!r}: no column is of kind {column.kind!r} and Python form {column.python!r}")
    return way


def _are_numbers(column: Column) -> bool:
    *levels, leaf = column.python.split("/")
    return leaf == LEAF.get(column.dtype) and len(levels) == len(column.shape) and _LEVELS.issuperset(levels)


def check_column(column: Column) -> None:
    """Refuse a column that the table does not have, or whose values have no possible shape or type.

    Raises
    ------
    SchemaMismatch
    """
    way_of(column)
    if column.kind == "fixed":
        sound = column.dtype in DTYPES and all(length >= 0 for length in column.shape)
        sound = sound and (column.python != "npscalar" or not column.shape)
    elif column.kind == "ragged":
        depth = column.shape.count(ANY_LENGTH)
        inner = column.shape[depth:]
        sound = depth > 0 and all(length > 0 for length in inner)  # so those before them have any length
        sound = sound and (column.dtype in DTYPES or (column.dtype in TEXTS and not inner))
    else:
        return
    if not sound or len(column.shape) > _MOST_DIMS or math.prod(length or 1 for length in column.shape) >= _MOST_ITEMS:
        raise SchemaMismatch(
            f"column {column.name!r}: no {column.kind} column has values of type {column.dtype!r} and shape {list(column.shape)}"
            + (f" ({column.python})" if column.python else "")
        )


def check_mode(schema: Schema, *, exact: bool) -> None:
    """Refuse columns that the feed's mode does not have; for each schema that comes off a socket.

    Raises
    ------
    SchemaMismatch
    """
    for column in schema.columns:
        rows, arrays = way_of(column)
        if (rows if exact else arrays) is None:
            found = f"{column.kind!r} with the Python form {column.python!r}"
            raise SchemaMismatch(f"column {column.name!r}: {'row' if exact else 'column'} mode has no columns of kind {found}")
    if len(set(schema.names)) < len(schema.columns) and (not exact or schema.structure == "dict"):
        raise SchemaMismatch(f"several of the columns {', '.join(schema.names)} have one name")


def is_pickled(column: Column) -> bool:
    """Return whether the decoder unpickles the column's values, in either mode."""
    return PICKLED in way_of(column)
