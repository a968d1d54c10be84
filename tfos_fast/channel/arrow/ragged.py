"""Arrow lists as rows of a ragged column: the bytes that ``values/nested.py`` describes, without making Python objects of the
items.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfos_fast.channel.arrow.plain import is_list, lengths
from tfos_fast.channel.schema.columns import Column
from tfos_fast.errors import SchemaMismatch
from tfos_fast.values import nested
from tfos_fast.values.dtypes import dtype_of


def numbers_of(array: Any) -> np.ndarray:
    """The innermost values of a numeric column, flat. Memory is not copied, except of booleans."""
    while hasattr(array, "flatten"):
        array = array.flatten()
    values: np.ndarray = array.to_numpy(zero_copy_only=False)
    return values


def text_spans(array: Any) -> tuple[np.ndarray, np.ndarray]:
    """Where each text or byte string without nulls ends (int64, one more than rows, from 0), and their bytes. Not copied."""
    import pyarrow as pa

    _, offsets, data = array.buffers()
    width = np.int64 if pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type) else np.int32
    if offsets is None or not offsets.size:  # an empty array may have no memory
        return np.zeros(len(array) + 1, np.int64), np.empty(0, np.uint8)
    ends = np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    start = int(ends[0])
    ends -= start
    if data is None or not ends[-1]:
        return ends, np.empty(0, np.uint8)
    return ends, np.frombuffer(data, np.uint8)[start : start + int(ends[-1])]


def check_text(column: Column, ends: np.ndarray, data: np.ndarray) -> None:
    """Refuse text that is not UTF-8. Spark hands such bytes on as they are (``cast`` of binary, files in another character set).

    Raises
    ------
    SchemaMismatch
    """
    if not data.size or data.max() < 0x80:
        return
    starts = ends[:-1][np.diff(ends) > 0]
    cut = starts[data[starts] & 0xC0 == 0x80]  # in the middle of a character
    at = int(cut[0]) if cut.size else -1
    try:
        str(data.data, "utf-8")
    except UnicodeDecodeError as error:
        at = min(at, error.start) if at >= 0 else error.start
    if at >= 0:
        row = int(np.searchsorted(ends, at, side="right")) - 1
        raise no_text(column.name, data[ends[row] : ends[row + 1]].tobytes())


def no_text(name: str, found: bytes) -> SchemaMismatch:
    """The error for a column's text that is not UTF-8."""
    return SchemaMismatch(
        f"column {name!r}: text that is not UTF-8, {found[:40]!r}; feed it as binary (cast), or decode it before the feed from the "
        "character set that it is in"
    )


def encoded_lists(column: Column, array: Any, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the bytes of each row end (int64, one more than rows, from 0), and the bytes.

    Rows of several levels, and of text, are put together one by one, only as far as there is room, and one more.
    """
    depth, text = column.ragged_dims, column.dtype in nested.TEXTS
    levels: list[np.ndarray] = []
    items = array
    for _ in range(depth):
        # Lists without items are of any type and depth.
        levels.append(lengths(items) if is_list(items.type) else np.zeros(len(items) if not levels else 0, np.int64))
        items = items.flatten() if is_list(items.type) else items.slice(0, 0)
    if text:
        ends, data = text_spans(items) if len(items) else (np.zeros(1, np.int64), np.empty(0, np.uint8))
        if column.dtype == "string":
            check_text(column, ends, data)
        levels.append(np.diff(ends))
        each = 1
    else:
        dtype = dtype_of(column.dtype)
        with np.errstate(over="ignore"):
            numbers = np.ascontiguousarray(numbers_of(items) if len(items) else np.empty(0), dtype)
        data = numbers.reshape(-1).view(np.uint8)
        each = dtype.itemsize * int(np.prod(column.shape[depth:], dtype=np.int64))
    if len(levels) == 1:
        ends = np.zeros(len(array) + 1, np.int64)
        np.cumsum(levels[0], out=ends[1:])
        return ends * each, data
    return _put_together(len(array), levels, data, each, room)


def _put_together(rows: int, levels: list[np.ndarray], data: np.ndarray, each: int, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a header, the lengths of each level, and their values of ``each`` bytes."""
    starts = [np.arange(rows + 1, dtype=np.int64)]  # in each level, and at last in the values, where a row begins
    for level in levels:
        starts.append(np.concatenate([[0], np.cumsum(level)])[starts[-1]])
    headers = [level.astype("<u4") for level in levels]
    ends, pieces = np.zeros(rows + 1, np.int64), []
    for row in range(rows):
        parts = [header[begin[row] : begin[row + 1]].tobytes() for header, begin in zip(headers, starts, strict=False)]
        parts.append(data[starts[-1][row] * each : starts[-1][row + 1] * each].tobytes())
        pieces.append(b"".join(parts))
        ends[row + 1] = ends[row] + len(pieces[-1])
        if ends[row + 1] > room:
            ends = ends[: row + 2]
            break
    return ends, np.frombuffer(b"".join(pieces), np.uint8)
