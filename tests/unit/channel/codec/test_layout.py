"""Where columns lie in a slot."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfos_fast.channel.codec.layout import ALIGNMENT, MAX_FREE, MAX_ROWS, MAX_SLOT_BYTES, Layout, free_bytes, has_heap, layout, plan
from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.errors import RowTooLarge

columns = st.one_of(
    st.builds(
        Column,
        st.just("c"),
        st.just("fixed"),
        st.sampled_from(["bool", "int8", "float16", "float32", "float64", "complex128"]),
        st.lists(st.integers(0, 9), max_size=3).map(tuple),
    ),
    st.builds(Column, st.just("c"), st.sampled_from(["string", "bytes", "object"])),
)
schemas = st.lists(columns, max_size=5).map(lambda found: Schema("tuple", tuple(found)))

PIXELS = Schema("tuple", (Column("c0", "fixed", "float32", (784,)), Column("c1", "fixed", "int64")))
TEXT = Schema("bare", (Column("c0", "string"),))


def check(form: Layout) -> None:
    """Regions are aligned, lie behind one another inside the slot, and the heap lies behind them."""
    end = 0
    for offset, column in zip(form.offsets, form.schema.columns, strict=True):
        assert offset % ALIGNMENT == 0
        assert end <= offset < end + ALIGNMENT
        end = offset + form.capacity * column.row_bytes
    assert form.heap == end <= form.slot_bytes


@given(schemas, st.integers(4096, 1 << 22), st.integers(1, 1000), st.floats(0, 5000))
def test_a_plan_is_sound_full_and_whole_batches(schema: Schema, slot_bytes: int, batch: int, heap_per_row: float) -> None:
    try:
        form = plan(schema, slot_bytes, batch=batch, heap_per_row=heap_per_row)
    except RowTooLarge:
        with pytest.raises(RowTooLarge):
            layout(schema, 1, slot_bytes)
        return
    check(form)
    assert form == layout(schema, form.capacity, slot_bytes), "every process computes the same"
    assert form.capacity >= 1
    if form.capacity >= batch:
        assert form.capacity % batch == 0
    if form.capacity > 1:
        assert form.heap + form.capacity * heap_per_row <= slot_bytes + 1
    more = form.capacity + (batch if form.capacity >= batch else 1)
    if more <= min(MAX_ROWS, MAX_FREE // max(1, free_bytes(schema))):
        with contextlib.suppress(RowTooLarge):
            assert layout(schema, more, slot_bytes).heap + more * heap_per_row > slot_bytes - 1


def test_a_plan_by_hand() -> None:
    form = plan(PIXELS, 4 << 20, batch=64, heap_per_row=0)
    assert form.capacity == 1280
    assert form.offsets == (0, 1280 * 3136)
    assert form.heap == 1280 * 3136 + 1280 * 8
    assert plan(PIXELS, 4 << 20, batch=2000, heap_per_row=0).capacity == 1334, "not even one batch fits"
    assert plan(TEXT, 4096, batch=1, heap_per_row=1e9).capacity == 1, "the estimate may be wrong"


def test_a_batch_not_yet_known_is_taken_for_a_power_of_two() -> None:
    assert plan(PIXELS, 4 << 20, batch=0, heap_per_row=0).capacity == 1280  # whole 128s: an eighth of 1334 is 166
    assert plan(PIXELS, 7 * 3200, batch=0, heap_per_row=0).capacity == 7


def test_rows_without_bytes() -> None:
    assert plan(Schema("tuple", ()), 4096, batch=100, heap_per_row=0).capacity == MAX_ROWS - MAX_ROWS % 100


def test_a_row_larger_than_a_slot() -> None:
    with pytest.raises(RowTooLarge, match=r"one row needs 3144 bytes, a slot has 2048; make slot_bytes at least 3200"):
        plan(PIXELS, 2048, batch=1, heap_per_row=0)
    with pytest.raises(RowTooLarge, match="2 rows need 6288 bytes"):
        layout(PIXELS, 2, 4096)


def test_senseless_arguments() -> None:
    with pytest.raises(ValueError, match="capacity must not be negative"):
        layout(PIXELS, -1, 4096)
    for slot_bytes in (0, MAX_SLOT_BYTES + 1):
        with pytest.raises(ValueError, match="slot_bytes must be between"):
            layout(PIXELS, 0, slot_bytes)


def test_roomier_halves_the_rows_down_to_one() -> None:
    form = plan(TEXT, 4096, batch=1, heap_per_row=0)
    seen = []
    while not seen or form.capacity != seen[-1]:
        seen.append(form.capacity)
        check(form)
        form = form.roomier()
    assert seen == [512, 256, 128, 64, 32, 16, 8, 4, 2, 1]


def test_has_heap() -> None:
    assert has_heap(TEXT)
    assert not has_heap(PIXELS)
