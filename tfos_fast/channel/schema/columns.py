"""What the rows of a feed look like: columns and what they hold.

``detect.py`` finds them in rows, ``widen.py`` joins two views of them, ``kinds.py`` has the table of what exists.

There are two modes, chosen by the reader and written ``exact`` here:

* **row mode** (``exact=True``): every value must come back equal and of the same Python type. A column that cannot
  promise this is of kind *object* (its values travel pickled), and so no row is ever refused.
* **column mode** (``exact=False``): the reader gets arrays, so a list of floats, a tuple of floats and a float64
  array are the same column.

==========  ======================================================  =============================================================
kind        a row's value                                           the reader gets (column mode)
==========  ======================================================  =============================================================
fixed       numbers of one type and shape                           an array; it aliases the slot
ragged      numbers, text or bytes in lists whose lengths differ    :class:`~tfos_fast.values.ragged.Ragged`: values, row splits
string      text                                                    an object array of ``str``
bytes       byte strings                                            an object array of ``bytes``
object      anything, pickled                                       an object array
null        only None so far                                        what the policy for nulls says
unused      anything, which is not written                          nothing: the spec does not name it, and decides the structure
==========  ======================================================  =============================================================
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np

from tfos_fast.channel.schema.kinds import check_column
from tfos_fast.errors import SchemaMismatch
from tfos_fast.values.dtypes import dtype_of

Kind = Literal["fixed", "ragged", "string", "bytes", "object", "null", "unused"]
#: Kinds whose values take no place in a slot.
NO_PLACE = ("null", "unused")
Unit = Literal["", "?", "date", "timestamp", "duration", "number", "mixed", "beyond"]
Structure = Literal["tuple", "list", "dict", "row", "bare"]


class Octets(msgspec.Struct, frozen=True, array_like=True):
    """A byte string that stands for None. Messages know one kind of text only, so it is a list of its own there."""

    data: bytes

    def __repr__(self) -> str:
        return repr(self.data)


#: A value that stands for None.
Fill = bool | int | float | str | Octets | None

#: Bytes of one (offset, length) pair, which a column of the heap has for each row.
ENTRY_BYTES = 8
MAX_DIMS = 16
#: A dimension of a ragged column whose length differs from row to row.
ANY_LENGTH = -1
#: For errors: what a column of Python objects holds.
OBJECTS = "values that only fit as Python objects"
#: For errors: what makes a column hold Python objects, and what helps.
WHY_OBJECTS = (
    "which are no tensor: None without a policy (nulls=...), None inside a list, a type without a tensor, or values of differing "
    "types; feed values of one type, or use next_batch() or batches()"
)


class Column(msgspec.Struct, frozen=True):
    """One column of a slot.

    Parameters
    ----------
    name : str
        Its name; unique in column mode.
    kind : {"fixed", "ragged", "string", "bytes", "object", "null", "unused"}
        See the table above.
    dtype : str
        For fixed and ragged columns the numpy name of the element type, one of :data:`tfos_fast.values.dtypes.DTYPES`; for ragged
        ones also ``"string"`` or ``"bytes"``.
    shape : tuple of int
        For fixed columns the shape of one row's value. For ragged ones the first dimensions are :data:`ANY_LENGTH`.
    python : str
        Row mode only: what the value is when it goes back. ``"float"``, ``"int"``, ``"bool"``; nested sequences from
        the outside in, such as ``"list/tuple/float"``; ``"ndarray"``, ``"npscalar"``; ``"bytearray"`` for a bytes
        column. In column mode empty, or of a fixed column ``"bytes"``: rows bring the values' memory as byte strings.
    nulls : {"", "seen", "fill", "mask"}
        Column mode: whether a row's value may be None. ``"seen"``: rows have it, and no policy says what becomes of it yet.
        ``"fill"``: `fill` is written instead. ``"mask"``: so it is, and a column of bools says which rows have a value.
    fill : bool, int, float, str, Octets or None
        None: zeros, an empty text, an empty list.
    unit : str
        Column mode: what numbers count, see ``values/special.py``; empty for plain ones, ``"?"`` where that is not known. Of
        objects ``""``: anything as it was fed. ``"number"`` or a unit: None, which has no policy, and values of `dtype` and
        `shape`. ``"mixed"``: values of several kinds, which share no column. ``"beyond"``: some are beyond the range of their
        numbers.

    Raises
    ------
    SchemaMismatch
        ``kinds.py`` has no such column. A message that holds one does not decode.
    """

    name: str
    kind: Kind
    dtype: str = ""
    shape: tuple[int, ...] = ()
    python: str = ""
    nulls: Literal["", "seen", "fill", "mask"] = ""
    fill: Fill = None
    unit: Unit = ""

    def __post_init__(self) -> None:
        if self.fill != self.fill:  # NaN: columns that are filled with it must be equal, and have one hash
            msgspec.structs.force_setattr(self, "fill", math.nan)
        check_column(self)

    @property
    def row_bytes(self) -> int:
        """Bytes that one row takes in the column's region: the value itself, or where it lies in the heap."""
        if self.kind == "fixed":
            return dtype_of(self.dtype).itemsize * math.prod(self.shape)
        return 0 if self.kind in NO_PLACE else ENTRY_BYTES

    @property
    def in_heap(self) -> bool:
        """Whether the values lie in the slot's heap."""
        return self.kind != "fixed" and self.kind not in NO_PLACE

    @property
    def ragged_dims(self) -> int:
        """How many dimensions differ in length from row to row; 0 unless it is ragged."""
        return sum(length == ANY_LENGTH for length in self.shape)

    @property
    def mask(self) -> str:
        """The name of the column of bools that says which rows have a value; empty when there is none."""
        return f"{self.name}_mask" if self.nulls == "mask" else ""


class Schema(msgspec.Struct, frozen=True):
    """The columns of a feed and what a row of it is.

    Parameters
    ----------
    structure : {"tuple", "list", "dict", "row", "bare"}
        What holds the values of one row. ``"row"`` is pyspark's ``Row`` (in column mode also a named tuple); ``"bare"``
        means that the row itself is the value of the only column.
    columns : tuple of Column
        In the order of the row's values.
    structs : tuple of str
        Column mode: dotted names of the structs whose fields are columns (see ``struct_fields.py``), sorted.
    """

    structure: Structure
    columns: tuple[Column, ...]
    structs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.structure == "bare" and len(self.columns) != 1:
            raise SchemaMismatch(f"a bare value is one column, and not {len(self.columns)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def outputs(self) -> tuple[Column, ...]:
        """What the reader gets: the columns, each with a mask followed by it, without those that are unused."""
        out: list[Column] = []
        for column in self.columns:
            if column.kind == "unused":
                continue
            out.append(column)
            if column.mask:
                out.append(Column(column.mask, "fixed", "bool"))
        return tuple(out)


#: The top of the row-mode lattice: whole rows, pickled.
OBJECT_ROWS = Schema("bare", (Column("c0", "object"),))


#: For errors: what helps where a column has values of several kinds.
ONE_KIND = "feed values of one kind, declare the column 'object' in the spec and read it with batches(), or use next_batch()"
#: The same where dates, times, durations and other values meet.
SEVERAL = f"values of several kinds: dates, times, durations and plain numbers each count something else; {ONE_KIND}"


#: For errors: a value that is beyond the range of its number.
BEYOND = "a value beyond the range of its number"


def describe(column: Column) -> str:
    """Say in a few words what a column holds, for messages."""
    if column.unit in ("mixed", "beyond"):
        return "values of several kinds" if column.unit == "mixed" else "values beyond the range of their numbers"
    if column.kind not in ("fixed", "ragged"):
        return column.python or column.kind
    lengths = ",".join("?" if length == ANY_LENGTH else str(length) for length in column.shape)
    meaning = column.python or column.unit.strip("?")
    return f"{column.dtype}{f'[{lengths}]' if column.shape else ''}" + (f" ({meaning})" if meaning else "")


def expected(column: Column) -> str:
    """As ``describe``, with the range of whole numbers: for values that the column does not take."""
    text = describe(column)
    if column.kind == "fixed" and column.python != "bytes" and column.unit in ("", "?") and dtype_of(column.dtype).kind in "iu":
        info = np.iinfo(column.dtype)
        text += f", from {info.min} to {info.max}"
    return text


def no_policy(name: str, fill: str = "0") -> str:
    """Say that nothing is declared of a column's None, and what helps. ``fill``: a value that it takes, as source."""
    return (
        f"None, and nothing says what becomes of it in a tensor; give it a value with nulls={{{name!r}: {fill}}}, keep "
        f"it as a mask with nulls={{{name!r}: tfos_fast.MASK}}, or replace it before the rows are fed"
    )
