"""Copy Arrow batches into slots as a writer does, and read their rows and columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.rows import slot
from tfos_fast.channel.arrow.flatten import flatten_batch
from tfos_fast.channel.arrow.pack import from_arrow, pack_batch
from tfos_fast.channel.codec import decode
from tfos_fast.channel.codec.layout import Layout, plan
from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.channel.schema.widen import apply_nulls, apply_spec, join

pa = pytest.importorskip("pyarrow")
pyspark = pytest.importorskip("pyspark")


def feed(
    batches: list[Any],
    *,
    exact: bool,
    slot_bytes: int = 4096,
    heap_per_row: float = 30.0,
    spec: dict | None = None,
    nulls: dict | None = None,
) -> list[tuple[Layout, np.ndarray, int]]:
    """Copy batches into slots as a writer does; a new slot whenever one is full or the schema widens."""
    slots: list[tuple[Layout, np.ndarray, int]] = []
    schema: Schema | None = None
    form: Layout | None = None
    memory, rows, heap = slot(1), 0, 0
    for batch in batches:
        batch = batch if exact else flatten_batch(batch)
        found = from_arrow(batch.schema, batch, exact=exact)
        wider = found if schema is None else join(schema, found, exact=exact)
        if wider != schema:
            if rows:
                slots.append((form, memory, rows))
            schema, form = wider, None
        start = 0
        while start < batch.num_rows:
            if form is None:
                declared = schema if exact else apply_nulls(apply_spec(schema, spec or {}), nulls or {})
                form = plan(declared, slot_bytes, batch=4, heap_per_row=heap_per_row)
                memory, rows, heap = slot(slot_bytes), 0, 0
            done, heap = pack_batch(form, memory, rows, heap, batch, start, exact=exact)
            rows += done
            start += done
            if start < batch.num_rows:
                if rows:
                    slots.append((form, memory, rows))
                    form = None
                else:
                    form = form.roomier()
    if rows:
        slots.append((form, memory, rows))
    return slots


def rows_of(slots: list[tuple[Layout, np.ndarray, int]]) -> list[Any]:
    """All rows, in row mode."""
    return [row for form, memory, count in slots for row in decode.rows(form, memory, 0, count)]


def column_of(slots: list[tuple[Layout, np.ndarray, int]], name: str = "a") -> list[Any]:
    """All values of a column, in column mode."""
    return [v for form, memory, count in slots for v in decode.columns(form, memory, 0, count)[name].tolist()]


def one(array: Any, *, exact: bool = True) -> Column:
    """What a column becomes."""
    batch = pa.record_batch([array], names=["a"])
    return from_arrow(batch.schema, batch, exact=exact).columns[0]


def as_collected(value: Any) -> Any:
    """Older pysparks collect bytes as bytearrays; older pyarrows give numpy's float16."""
    if isinstance(value, list):
        return [as_collected(each) for each in value]
    if isinstance(value, bytes) and BINARY:
        return bytearray(value)
    return float(value) if isinstance(value, np.float16) else value


BINARY = "bytearray" if tuple(map(int, pyspark.__version__.split(".")[:2])) < (4, 1) else ""
