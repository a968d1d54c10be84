"""The one rule by which a row's result becomes values of declared columns. The schema decides, and no value.

1. A dict, a Row, a named tuple or a row of a structured array goes to the columns by names. What it leaves out is null.
2. Of several columns, a tuple or list has one value for each, by position.
3. A single column whose type has several values (array, map, struct) takes any other result as its value, also a tuple or list.
   A single map or struct takes dicts, Rows and named tuples in the same way, unless the column's name is their only name.
4. A single column of another type takes the result as its value, and of a tuple or list the one value in it.

Two things have columns of their own, whatever the schema says: a tuple of arrays given to ``batch_results``, and results whose
columns were learned (``infer`` without a schema), where a tuple has been taken for columns already.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import numpy as np

from tfos_fast.channel.schema.columns import Schema
from tfos_fast.errors import SchemaMismatch
from tfos_fast.values.dtypes import named_fields, row_names
from tfos_fast.values.spelling import quoted

#: What the columns of a tuple of arrays are called, whose names nobody asks for: it tells them from tuples that are rows.
TUPLE_OF_ARRAYS = "array {}"


#: Which results are the value of the only column: none that has parts, lists and tuples, or also what has names.
Takes = Literal["", "lists", "names"]


def takes(schema: Any, *, tuples: bool = False) -> Takes:
    """What the only column of a ``pyarrow.Schema`` takes as its value (rule 3).

    ``tuples``: tuples are columns, as they were when the schema was learned.
    """
    import pyarrow as pa

    if len(schema) != 1 or not pa.types.is_nested(schema.types[0]) or tuples:
        return ""
    return "names" if pa.types.is_struct(schema.types[0]) or pa.types.is_map(schema.types[0]) else "lists"


def pick(found: Schema, schema: Any, *, whole: Takes) -> list[int | None] | None:
    """For each declared column which column of the results it takes, None for none. None altogether: only the rows tell.

    Parameters
    ----------
    found : Schema
        Of the results, as they were packed.
    schema : pyarrow.Schema
    whole : str
        What ``takes`` says.

    Raises
    ------
    SchemaMismatch
        Results that are dicts or Rows have other names.
    """
    if found.structure in ("dict", "row"):
        if not found.names or len(set(found.names)) < len(found.names) or (whole == "names" and list(found.names) != schema.names):
            return None
        check_names(found.names, schema.names)
        index = {name: i for i, name in enumerate(found.names)}
        return [index.get(name) for name in schema.names]
    if found.structure == "bare":
        fixed = found.columns[0].kind == "fixed"
        row = found.columns[0].python.startswith(("list", "tuple"))  # a long one of numbers
        return [0] if len(schema) == 1 and fixed and (whole or not row) else None
    arrays = found.names[:1] == (TUPLE_OF_ARRAYS.format(0),)
    return list(range(len(schema))) if len(found.columns) == len(schema) and (arrays or not whole) else None


def to_fields(result: Any, names: list[str], *, whole: Takes) -> list[Any]:
    """One result as values of columns.

    Parameters
    ----------
    result : object
    names : list of str
        Of the declared columns.
    whole : str
        What ``takes`` says.

    Raises
    ------
    SchemaMismatch
        It has not as many values as there are columns, or other names.
    """
    if type(result) is dict and result.keys() == set(names):
        return [result[name] for name in names]
    if isinstance(result, np.void):
        result = named_fields(result) or result
    found = row_names(result)
    if whole == "names" and list(found or (result if isinstance(result, dict) else ())) != names:
        return [result]
    if found is not None:
        if len(set(found)) < len(found):
            raise SchemaMismatch(f"a result has a name twice: {list(found)}; give each value a name of its own")
        result = dict(zip(found, result, strict=True))
    if isinstance(result, dict):
        check_names(result, names)
        return [result.get(name) for name in names]
    if whole:
        return [result]
    values = list(result) if isinstance(result, tuple | list) else [result]
    if len(values) != len(names):
        hint = f"give its one value, or declare {names[0]!r} as array<...>"
        if len(names) > 1:
            hint = "give each row a tuple or dict with a value for each column, or give all rows a tuple or dict of arrays"
        counts = f"a result has {len(values)} values, and the schema has {len(names)} columns ({', '.join(names)})"
        raise SchemaMismatch(f"{counts}; {hint}; the result is {result!r:.200}")
    return values


def check_names(found: Collection[str], names: list[str]) -> None:
    """Refuse results that lack a declared column and have one that is not declared.

    Raises
    ------
    SchemaMismatch
    """
    missing = [name for name in names if name not in found]
    more = [name for name in found if name not in names]
    if missing and more:
        raise SchemaMismatch(
            f"the results have {quoted(more)}, and the schema has {quoted(missing)} instead; use the same names in "
            "infer(schema=) and batch_results(), or give None for a column without a value"
        )
