"""Results given as whole arrays, the first dimension of each for the rows: packed by copies of memory, not row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfos_fast._convert import is_packable
from tfos_fast.channel.schema import Column, Schema, Structure

# What a number of an array is to the writer that gets it back as a row.
_NUMBERS = {"f": "float", "i": "int", "u": "int", "b": "bool", "c": "complex"}


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
    results : array, tensor, dict, tuple or sequence
        An array or tensor (anything with ``numpy()``): each ``results[i]`` is the result of a row. A dict of columns, or a tuple
        of arrays: the result of a row is a dict, or tuple, of the columns' values. Any other sequence: its items are the results.
        A number of an array becomes a Python number, what has dimensions stays an array, and text is ``str`` or ``bytes`` as the
        array has it (string tensors have bytes).

    Raises
    ------
    ValueError
        The columns differ in length, or an array has no dimension.
    """
    single = _array(results)
    if single is not None:
        return _pack("bare", ["c0"], [single])
    if isinstance(results, dict):
        columns = [_column(name, value) for name, value in results.items()]
        return _pack("dict", list(results), columns)
    if type(results) is tuple and results:
        columns = [_array(value) for value in results]
        if all(column is not None and column.ndim for column in columns):
            return _pack("tuple", [f"c{i}" for i in range(len(columns))], columns)
    return list(results)


def _array(value: Any) -> np.ndarray | None:
    """The value as an array if it is one, or a tensor."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "numpy") and hasattr(value, "shape"):  # an eager tensor; TensorFlow is not imported here
        return np.asarray(value.numpy())
    return None


def _column(name: Any, value: Any) -> Any:
    array = _array(value)
    if array is not None:
        return array
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
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


def _values(column: Any) -> Sequence[Any]:
    """One value for each row, of the types that a block's rows have."""
    if not isinstance(column, np.ndarray):
        return column
    if column.ndim > 1:
        return list(column)
    return column.tolist()
