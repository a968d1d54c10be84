"""Rows of a pickle stream, packed as they are and unpickled first: both ways give the same."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from pyspark.sql import Row

from tests.support.rows import drive, rows_of, same
from tfos_fast.channel.codec import decode
from tfos_fast.errors import RowTooLarge, SchemaMismatch
from tfos_fast.native.pickled.batch import StreamBatch


def outcome(rows: list[Any], **options: Any) -> Any:
    """Slots as (layout, rows, contents), or the error."""
    try:
        slots = drive(rows, **options)
    except (SchemaMismatch, RowTooLarge) as error:
        return type(error), str(error)
    if options["exact"]:
        return [(form, count) for form, _, count in slots], rows_of(slots)
    return [(form, count) for form, _, count in slots], [
        list(decode.columns(form, memory, 0, count).values()) for form, memory, count in slots
    ]


def check(stream: bytes, before: StreamBatch | None = None, **options: Any) -> bool:
    """Whether the stream was read; if so, that what came out is what its unpickled rows give.

    It is read twice: the second time rows may be compared with the pattern of the first.
    """
    batch = before or StreamBatch()
    if not batch.load(stream):
        return False
    for _ in range(2):
        rows = pickle.loads(stream)
        assert batch.rows == len(rows)
        expected = outcome(pickle.loads(stream), **options)
        found = outcome(rows, stream=batch, **options)
        assert same(expected, found), (expected, found)
        assert batch.load(stream)
    return True


COMMON: dict[str, list[Any]] = {
    "floats and a label": [([i + 0.5] * 784, i) for i in range(30)],
    "pictures": [(np.full((28, 28), i, np.uint8), i) for i in range(30)],
    "strided pictures": [(np.arange(64, dtype=np.int32).reshape(8, 8)[::2, ::2] + i, i) for i in range(30)],
    "a tuple and a label": [(tuple(float(i + k) for k in range(10)), i) for i in range(30)],
    "eleven columns": [(*(float(i + k) for k in range(10)), i) for i in range(1003)],
    "pairs": [(float(i), float(i)) for i in range(1001)],
    "single": [(i,) for i in range(30)],
    "bare floats": [i / 7 for i in range(2001)],
    "bare ints": [*range(-300, 300), 70_000, -70_000, 2**31, -(2**31), 2**40, -(2**40), 2**63 - 1, -(2**63)],
    "dicts": [{"x": i / 3, "y": [i, i + 1], "name": f"n{i}"} for i in range(300)],
    "rows": [Row(x=i / 3, y=[i, i + 1], name=f"n{i}") for i in range(300)],
    "numpy scalars": [(np.float32(i), np.int64(i), np.bool_(i % 2)) for i in range(30)],
    "numpy numbers": [(np.float32(i), np.int64(i)) for i in range(30)],
    "text and bytes": [("é" * i, b"b" * i, bytearray(i)) for i in range(30)],
    "booleans": [(i % 2 == 0, [True, False]) for i in range(30)],
    "long lists": [([float(i)] * 2500, i) for i in range(3)],
    "nested": [([[float(i), 2.0], [3.0, 4.0]], ((i, 1), (2, 3), (4, 5))) for i in range(30)],
    "empty lists": [([], i) for i in range(30)],
}
