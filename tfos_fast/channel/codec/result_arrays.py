"""Results given as whole arrays, the first dimension of each for the rows: packed by copies of memory, not row by row."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence, ValuesView
from typing import Any

import numpy as np

from tfos_fast.channel.codec.result_columns import TUPLE_OF_ARRAYS
from tfos_fast.channel.schema.columns import Column, Schema, Structure
from tfos_fast.values.dtypes import is_packable
from tfos_fast.values.times import is_missing

# What a number of an array is to the writer that gets it back as a row.
_NUMBERS = {"f": "float", "i": "int", "u": "int", "b": "bool", "c": "complex"}

_TEXTS = (str, bytes, bytearray, memoryview)  # sequences, but none of results


class Block:
    """Rows as arrays of one length. A slice of it is another block on the same memory.

    Parameters
    ----------
    schema : Schema
        Of row mode: it says what the rows are when they go back as rows.
    arrays : list of ndarray
        One for each column, in native byte order.
    rows : int
    """

    __slots__ = ("arrays", "rows", "schema")

    def __init__(self, schema: Schema, arrays: list[np.ndarray], rows: int) -> None:
        self.schema = schema
        self.arrays = arrays
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: slice) -> Block:
        part = [array[rows] for array in self.arrays]
        return Block(self.schema, part, len(range(*rows.indices(self.rows))))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays)

    def copy(self) -> Block:
        """The same rows in memory of their own."""
        return Block(self.schema, [array.copy() for array in self.arrays], self.rows)


def to_results(results: Any) -> Block | list[Any]:
    """What a program gives as results, as a block if it is one of arrays, else as a list of rows.

    Memory is not copied.

    Parameters
    ----------
    results : array, tensor, dict, tuple, sequence, or Series or DataFrame of pandas
        An array or tensor (anything with ``numpy()``): each ``results[i]`` is the result of a row. A dict of columns, or a tuple
        of arrays: the result of a row is a dict, or tuple, of the columns' values. A Series counts as an array, a DataFrame and a
        structured array as a dict of their columns. Any other sequence: its items are the results.
        A number of an array becomes a Python number, what has dimensions stays an array, and text is ``str`` or ``bytes`` as the
        array has it (string tensors have bytes). Days become dates, other times stay numpy's.

    Raises
    ------
    ValueError
        The columns differ in length, an array has no dimension, or the results are no sequence.
    """
    single = _array(results)
    if single is not None and single.dtype.names:  # a structured array
        return _pack("dict", list(single.dtype.names), [single[name] for name in single.dtype.names])
    if single is not None:
        return _pack("bare", ["c0"], [single])
    if _is_series(results):
        return list(_series(results))
    if hasattr(results, "columns") and hasattr(results, "iloc"):  # a DataFrame of pandas
        names = list(results.columns)
        if len(set(names)) < len(names):
            raise ValueError(f"batch_results: the DataFrame has a column name twice: {names}; rename its columns")
        return _pack("dict", names, [_column(name, results[name]) for name in names])
    if isinstance(results, dict):
        if not results:
            raise ValueError("batch_results: a dict without columns; give one array for each column, or a list of results")
        columns = [_column(name, value) for name, value in results.items()]
        return _pack("dict", list(results), columns)
    if type(results) is tuple and results:
        columns = [_column(i, value) if _is_series(value) else _array(value) for i, value in enumerate(results)]
        found = [isinstance(column, Sequence) or (column is not None and column.ndim > 0) for column in columns]
        if any(found) and not all(found):
            raise ValueError(
                f"batch_results: a tuple whose item {found.index(True)} is an array, and item {found.index(False)} is none. "
                "A tuple holds one array for each column; give a list where each item is the result of a row"
            )
        if all(found):
            return _pack("tuple", [TUPLE_OF_ARRAYS.format(i) for i in range(len(columns))], columns)
    return _rows(results)


def _rows(results: Any) -> list[Any]:
    """A sequence of results. What only looks like one, such as a text or a table, is refused."""
    if isinstance(results, Sequence | ValuesView | Iterator | deque | array) and not isinstance(results, _TEXTS):
        return list(results)
    raise ValueError(
        f"batch_results: {results!r:.200} is of type {type(results).__name__}; give a list with one result for each row, an array, "
        "or a dict or tuple of arrays"
    )


def _array(value: Any) -> np.ndarray | None:
    """The value as an array if it is one, or a tensor. Types of ml_dtypes are widened, but bfloat16 only in one dimension."""
    if isinstance(value, np.ndarray):
        found = value
    elif hasattr(value, "numpy") and hasattr(value, "shape"):  # an eager tensor; TensorFlow is not imported here
        found = np.asarray(value.numpy())
    elif hasattr(value, "__array__") and hasattr(value, "dtype") and hasattr(value, "ndim") and not hasattr(value, "isna"):
        found = np.asarray(value)  # of JAX, say
    else:
        return None
    if found.dtype.kind != "V" or found.dtype.type.__module__ != "ml_dtypes" or (found.ndim > 1 and is_packable(found.dtype)):
        return found
    return found.astype(np.int8 if "int" in found.dtype.name else np.float32)


def _is_series(value: Any) -> bool:
    """Whether it is a Series, Index or array of pandas."""
    return hasattr(value, "isna") and hasattr(value, "to_numpy") and not hasattr(value, "columns")


def _is_numpys(series: Any) -> bool:
    """Whether its values are those of numpy: not its times, which are local time where they have no zone, as Spark has it."""
    return isinstance(series.dtype, np.dtype) and series.dtype.kind not in "OM"


def _series(series: Any) -> Sequence[Any] | np.ndarray:
    """The values of a Series: an array where numpy has its type, else Python values with None where one is missing."""
    if _is_numpys(series):
        return _values(series.to_numpy())
    values: list[Any] = [None if is_missing(type(value)) else value for value in series.tolist()]
    objects = isinstance(series.dtype, np.dtype) and series.dtype.kind == "O"
    if not objects or not any(isinstance(value, int | float) and value == value for value in values):  # NaN is missing text, say
        values = [None if missing else value for value, missing in zip(values, series.isna(), strict=True)]
    return [value.to_pydatetime(warn=False) if hasattr(value, "to_pydatetime") else value for value in values]


def _column(name: Any, value: Any) -> Any:
    array = _array(value)
    if array is not None:
        return array
    if _is_series(value):
        return value.to_numpy() if _is_numpys(value) else _series(value)
    if isinstance(value, Sequence) and not isinstance(value, _TEXTS):
        return value
    raise ValueError(
        f"batch_results: column {name!r} is {value!r:.200}; every column of a dict is an array, tensor or list with one value "
        "for each row, or give a list with one dict for each row"
    )


def _pack(structure: Structure, names: list[Any], columns: list[Any]) -> Block | list[Any]:
    if any(isinstance(column, np.ndarray) and column.ndim == 0 for column in columns):
        raise ValueError("batch_results: an array without dimensions; the first dimension is that of the rows")
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        found = ", ".join(f"{name}: {length}" for name, length in zip(names, lengths, strict=True))
        raise ValueError(f"batch_results: the columns have different numbers of rows ({found})")
    if columns and all(_is_plain(column) for column in columns) and all(type(name) is str for name in names):
        fixed = []
        for name, column in zip(names, columns, strict=True):
            python = "ndarray" if column.ndim > 1 else _NUMBERS[column.dtype.kind]
            fixed.append(Column(name, "fixed", column.dtype.name, column.shape[1:], python))
        return Block(Schema(structure, tuple(fixed)), columns, lengths[0])
    values = [_values(column) for column in columns]
    if structure == "bare":
        return list(values[0])
    rows = zip(*values, strict=True)
    return list(rows) if structure == "tuple" else [dict(zip(names, row, strict=True)) for row in rows]


def _is_plain(column: Any) -> bool:
    return type(column) is np.ndarray and is_packable(column.dtype) and column.dtype.isnative


def _values(column: np.ndarray | Sequence[Any]) -> Sequence[Any]:
    """One value for each row, of the types that a block's rows have."""
    if not isinstance(column, np.ndarray):
        return column
    if column.ndim > 1 or column.dtype.names:
        return list(column)
    if column.dtype.kind in "Mm":
        return _times(column)
    if column.dtype.kind in "fc" and column.dtype.itemsize > 8 * (1 + (column.dtype.kind == "c")):
        numbers = [value.item() if column.dtype.kind == "c" else float(value) for value in column]  # Python has no long double
        return numbers if np.array_equal(np.isfinite(column), np.isfinite(numbers)) else list(column)
    values: list[Any] = column.tolist()
    return values


def _times(column: np.ndarray) -> list[Any]:
    """Days as dates where Python has them; other times as numpy's, as Python's have no time zone or no nanoseconds."""
    if np.datetime_data(column.dtype)[0] in ("Y", "M", "W", "D") and column.dtype.kind == "M":
        days: list[Any] = column.tolist()
        if not any(type(day) is int for day in days):
            return days
    return list(column)
