"""The packer: events, rollback, errors, casts, and memory that it holds no longer than it should."""

from __future__ import annotations

import gc
import itertools
import pickle
import sys
import time
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.rows import drive, feeds, packer_for, rows_of, same, slot
from tfos_fast.channel.codec import decode
from tfos_fast.channel.codec.layout import layout, plan
from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.channel.schema.detect import infer
from tfos_fast.errors import RowTooLarge, SchemaMismatch
from tfos_fast.native.column_writer import dumps
from tfos_fast.native.row_packer import END, FULL, MISFIT, TICK, RowPacker, move_rows

relaxed = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


# ---- events ----


def test_end_full_and_tick() -> None:
    packer, form, memory = packer_for(1, capacity=4)
    source = iter(range(10))
    assert packer.pack_from(iter([]), 60) == END
    assert packer.pack_from(source, 60) == FULL
    assert (packer.rows, packer.has_pending) == (4, False), "no row is pulled for a slot without room"
    assert packer.pack_from(source, 60) == FULL
    packer.unbind()
    assert decode.rows(form, memory, 0, 4) == [0, 1, 2, 3]
    packer.bind(memory, form)
    assert packer.pack_from(source, 0) == TICK
    assert packer.rows == 1
    assert packer.pack_from(source, 60) == FULL
    packer.unbind()
    packer.bind(memory, form)
    assert packer.pack_from(source, 60) == END
    assert decode.rows(form, memory, 0, packer.rows) == [8, 9]


def test_a_tick_comes_while_the_iterator_goes_on() -> None:
    packer, _, _ = packer_for(1, capacity=10**6, slot_bytes=8 * 10**6)

    def slow() -> Iterator[int]:
        while True:
            time.sleep(0.002)
            yield 1

    source = slow()
    assert packer.pack_from(source, 0.02) == TICK
    assert 1 <= packer.rows < 10**6
    assert packer.pack_from(source, 0.02) == TICK


def test_full_by_heap_keeps_the_row_and_undoes_its_parts() -> None:
    packer, form, memory = packer_for(("", "", 1), capacity=8, slot_bytes=4096)
    room = 4096 - form.heap
    assert packer.pack_from(iter([("a" * 100, "b", 1), ("c" * 100, "d" * room, 2)]), 60) == FULL
    assert packer.rows == 1
    assert packer.heap_used == 101, "the first column of the row that did not fit is given back"
    assert packer.has_pending
    assert packer.pending[2] == 2
    assert decode.rows(form, memory, 0, 1) == [("a" * 100, "b", 1)]
    packer.unbind()
    other = slot(8192)
    packer.bind(other, layout(packer.schema, 8, 8192))
    assert packer.pack_from(iter([("e", "f", 3)]), 60) == END
    assert [row[2] for row in decode.rows(packer.layout, other, 0, 2)] == [2, 3]


def test_misfit_keeps_the_row_names_the_column_and_undoes_its_parts() -> None:
    packer, form, memory = packer_for(("", 1))
    assert packer.pack_from(iter([("x", 1), ("y", 2.5), ("z", 3)]), 60) == MISFIT
    assert (packer.rows, packer.heap_used, packer.misfit, packer.pending) == (1, 1, 1, ("y", 2.5))
    assert packer.pack_from(iter([]), 60) == MISFIT, "a pending row is tried again"
    for row in ((1,), ["", 1], {"c0": "", "c1": 1}, "text", None):
        packer.set_pending(row)
        assert packer.pack_from(iter([]), 60) == MISFIT
        assert (packer.misfit, packer.rows) == (-1, 1)
    assert packer.take_pending() is None
    assert not packer.has_pending
    assert packer.pack_from(iter([("w", 9)]), 60) == END
    assert decode.rows(form, memory, 0, 2) == [("x", 1), ("w", 9)]


def test_a_pending_row_may_be_none() -> None:
    packer, form, memory = packer_for(None)
    packer.set_pending(None)
    assert packer.has_pending
    assert packer.pack_from(iter([]), 60) == END
    assert decode.rows(form, memory, 0, 1) == [None]


def test_a_slot_with_too_little_heap_for_its_first_row_is_laid_out_anew() -> None:
    packer, form, memory = packer_for("x", capacity=400, slot_bytes=4096)
    assert form.slot_bytes - form.heap < 1000
    assert packer.pack_from(iter(["y" * 1000, "z" * 1000, "w" * 3000]), 60) == FULL
    assert packer.layout != form
    assert packer.layout.capacity >= 2
    assert decode.rows(packer.layout, memory, 0, packer.rows) == ["y" * 1000, "z" * 1000]
    packer.unbind()
    packer.bind(memory, form)
    assert packer.pack_from(iter([]), 60) == FULL
    assert packer.layout.capacity == 1
    assert decode.rows(packer.layout, memory, 0, 1) == ["w" * 3000]


def test_a_row_larger_than_a_slot_is_refused_and_stays_pending() -> None:
    packer, _, _ = packer_for(("x", b"", None), slot_bytes=1024)
    row = ("é" * 600, b"abc", None)
    with pytest.raises(RowTooLarge, match=r"one row needs 24 bytes in the columns and 1207 in the heap; a slot has 1024"):
        packer.pack_from(iter([row]), 60)
    assert packer.pending is row
    packer.unbind()
    memory = slot(4096)
    packer.bind(memory, layout(packer.schema, 2, 4096))
    assert packer.pack_from(iter([]), 60) == END
    assert decode.rows(packer.layout, memory, 0, 1) == [row]


# ---- errors ----


def test_an_exception_of_the_iterator_comes_through() -> None:
    packer, form, memory = packer_for(1)

    def breaks() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("source")

    with pytest.raises(KeyError, match="source"):
        packer.pack_from(breaks(), 60)
    assert decode.rows(form, memory, 0, packer.rows) == [1, 2]
    assert packer.pack_from(iter([3]), 60) == END
    assert packer.rows == 3


class Stubborn:
    """An object that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise ValueError("not me")


def test_a_value_that_cannot_be_pickled_is_left_out() -> None:
    packer, form, memory = packer_for(("", None))
    with pytest.raises(ValueError, match="not me"):
        packer.pack_from(iter([("a", 1), ("bcd", Stubborn()), ("e", 2)]), 60)
    assert packer.rows == 1
    assert packer.heap_used == 1 + len(pickle.dumps(1, 5))
    assert not packer.has_pending
    assert packer.pack_from(iter([("e", 2)]), 60) == END
    assert decode.rows(form, memory, 0, 2) == [("a", 1), ("e", 2)]


def test_cloudpickle_takes_what_pickle_refuses() -> None:
    pytest.importorskip("cloudpickle")
    (back,) = rows_of(drive([(lambda x: x + 1, 2)], exact=True))
    assert back[0](back[1]) == 3
    with pytest.raises(SchemaMismatch, match=r"type generator cannot be pickled, .*cannot pickle .generator. object"):
        dumps(x for x in ())


class Sneaky:
    """Rows whose code meddles with the packer."""

    def __init__(self, action: Any) -> None:
        self.action = action

    def __reduce__(self) -> Any:
        self.action()
        return (str, ())


def test_rows_must_not_use_the_packer_that_packs_them() -> None:
    packer, form, memory = packer_for(None)
    attempts = [
        packer.unbind,
        packer.take_pending,
        lambda: packer.set_pending(1),
        lambda: packer.bind(memory, form),
        lambda: packer.pack_from(iter([]), 1),
    ]
    for attempt in attempts:
        with pytest.raises(RuntimeError, match="the packer is packing"):
            packer.pack_from(iter([Sneaky(attempt)]), 60)
    assert packer.rows == 0


def test_a_row_that_changes_while_it_is_packed_does_no_harm() -> None:
    row: list[Any] = []
    row += ["a", Sneaky(row.clear), "b"]
    packer = RowPacker(Schema("list", tuple(Column(f"c{i}", "object") for i in range(3))), exact=True)
    memory = slot(4096)
    packer.bind(memory, layout(packer.schema, 4, 4096))
    assert packer.pack_from(iter([row]), 60) == END
    assert decode.rows(packer.layout, memory, 0, 1) == [["a", "", "b"]]


def test_senseless_calls() -> None:
    packer, form, memory = packer_for(1.0)
    with pytest.raises(ValueError, match="bound already"):
        packer.bind(memory, form)
    with pytest.raises(TypeError, match="an iterator is needed, not list"):
        packer.pack_from([1.0], 60)  # type: ignore[arg-type]
    packer.unbind()
    packer.unbind()
    with pytest.raises(ValueError, match="no slot is bound"):
        packer.pack_from(iter([]), 60)
    with pytest.raises(ValueError, match="for another schema"):
        packer.bind(memory, layout(infer(1, exact=True), 8, 4096))
    with pytest.raises(ValueError, match="rows must be between 0 and 8"):
        packer.bind(memory, form, 9)
    with pytest.raises(ValueError, match="the buffer has 4000 bytes"):
        packer.bind(memory[:4000], form)
    with pytest.raises(ValueError, match="multiple of 8"):
        packer.bind(slot(8192)[1:], form)
    with pytest.raises(BufferError):
        packer.bind(bytes(4096), form)
    packer.bind(memory, form)


def test_a_slot_that_does_not_hold_the_rows_is_refused() -> None:
    packer, form, memory = packer_for("x")
    packer.unbind()
    memory[:64] = 0xFF
    with pytest.raises(ValueError, match="does not hold 3 rows"):
        packer.bind(memory, form, 3)
    with pytest.raises(ValueError, match="does not hold 0 rows"):
        packer.bind(memory, form, 0, 5000)


# ---- memory ----


def test_the_buffer_is_held_until_unbind() -> None:
    packer, form, _ = packer_for(1.0)
    packer.unbind()
    buffer = bytearray(4096)
    packer.bind(buffer, form)
    with pytest.raises(BufferError):
        buffer.append(0)
    packer.unbind()
    buffer.append(0)
    packer.bind(buffer, form)
    del packer
    gc.collect()
    buffer.append(0)


def test_no_reference_is_lost_or_kept() -> None:
    class Tracked:
        pass

    class Text(str):
        pass

    word, items = Text("abcdefgh" * 3), [1.5, 2.5]
    row = (items, word)
    packer, _, _ = packer_for(row, exact=False, capacity=100)
    before = [sys.getrefcount(each) for each in (row, items, items[0], word)]
    assert packer.pack_from(itertools.repeat(row, 50), 60) == END
    assert [sys.getrefcount(each) for each in (row, items, items[0], word)] == before
    thing = Tracked()
    gone = weakref.ref(thing)
    packer.set_pending((thing,))
    assert packer.pack_from(iter([]), 60) == MISFIT
    del thing
    assert gone() is not None
    packer.take_pending()
    assert gone() is None


def test_memory_does_not_grow() -> None:
    rows = [([float(i)] * 50, np.zeros(20), f"text {i}", {"a": i}, np.float32(i)) for i in range(200)]
    packer, form, memory = packer_for(rows[0], capacity=400, slot_bytes=1 << 20)

    def fill(times: int) -> int:
        for _ in range(times):
            packer.unbind()
            packer.bind(memory, form)
            assert packer.pack_from(iter(rows), 60) == END
            assert len(decode.rows(form, memory, 0, packer.rows)) == 200
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = fill(3)
        # One lost object per row would be 4000 of at least 32 bytes.
        assert fill(20) - before < 64 << 10
    finally:
        tracemalloc.stop()


# ---- rows that are there already, and moving ----


@given(feeds(), st.data())
@relaxed
def test_packing_goes_on_where_it_stopped(rows: list[Any], data: st.DataObject) -> None:
    """A slot that was unbound and is bound again with its rows takes the next ones behind them."""
    for form, memory, count in drive(rows, exact=True, slot_bytes=1 << 16, heap_per_row=1000):
        stop = data.draw(st.integers(0, count))
        again = slot(1 << 16)
        packer = RowPacker(form.schema, exact=True)
        before = decode.rows(form, memory, 0, count)
        packer.bind(again, form)
        assert packer.pack_from(iter(before[:stop]), 60) in (END, FULL)
        used = packer.heap_used
        packer.unbind()
        packer.bind(again, form, stop)
        assert packer.heap_used == used
        assert packer.pack_from(iter(before[stop:]), 60) in (END, FULL)
        assert same(decode.rows(form, again, 0, count), before)


@given(feeds(), st.data())
@relaxed
def test_moved_rows_are_the_same(rows: list[Any], data: st.DataObject) -> None:
    for form, memory, count in drive(rows, exact=True, slot_bytes=1 << 14, heap_per_row=300):
        start = data.draw(st.integers(0, count))
        stop = data.draw(st.integers(start, count))
        other = plan(form.schema, 1 << 15, batch=1, heap_per_row=300)
        target = slot(1 << 15)
        used = move_rows(form, memory, start, stop, other, target)
        before = decode.rows(form, memory, start, stop)
        assert same(decode.rows(other, target, 0, stop - start), before)
        packer = RowPacker(form.schema, exact=True)
        packer.bind(target, other, stop - start)
        assert packer.heap_used == used
        packer.unbind()
        packer.bind(target, other, stop - start, used)
        assert packer.pack_from(iter(before), 60) in (END, FULL)
        assert same(decode.rows(other, target, 0, 2 * len(before)), before * 2)


def test_moving_checks_what_it_is_told() -> None:
    ((form, memory, count),) = drive([("x" * 100,)] * 10, exact=True, heap_per_row=100, batch=1)
    with pytest.raises(ValueError, match="slots of one schema"):
        move_rows(form, memory, 0, 1, layout(infer((1,), exact=True), 1, 4096), slot(4096))
    with pytest.raises(ValueError, match="are not in a slot"):
        move_rows(form, memory, 0, form.capacity + 1, form, slot(4096))
    with pytest.raises(RowTooLarge, match="laid out for 3"):
        move_rows(form, memory, 0, 4, layout(form.schema, 3, 4096), slot(4096))
    with pytest.raises(RowTooLarge, match="do not fit the heap"):
        move_rows(form, memory, 0, count, layout(form.schema, count, 640), slot(640))
    with pytest.raises(ValueError, match="smaller than its layout"):
        move_rows(form, memory, 0, 1, form, slot(64))
    memory[:8].view(np.uint32)[:] = (4000, 4000)
    with pytest.raises(ValueError, match="damaged"):
        move_rows(form, memory, 0, 1, form, slot(4096))
