"""The assembler against any cut of streams into slots and any batch sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tfos_fast.channel.reader.assemble import Assembler, Slot
from tfos_fast.channel.reader.batch import Batch
from tfos_fast.values.aligned import aligned_copy, aligned_empty, is_aligned


def slot_of(stream: int, first: int, rows: int, alias: bool = True) -> Slot:
    """A slot as the reader makes it: fixed columns at multiples of 64, strings decoded when cut."""
    number = aligned_empty((rows,), np.dtype(np.int64))
    number[...] = np.arange(first, first + rows)
    wide = aligned_empty((rows, 3), np.dtype(np.float32))
    wide[...] = number[:, None]

    def cut(start: int, stop: int) -> dict[str, np.ndarray]:
        text = np.array([f"{stream}/{i}" for i in number[start:stop]] + [None], object)[:-1]
        return {
            "stream": aligned_copy(np.full(stop - start, stream)),
            "number": number[start:stop],
            "wide": wide[start:stop],
            "text": text,
        }

    slot = Slot(stream, rows, cut, alias)
    slot.memory = number  # type: ignore[attr-defined]
    return slot


@st.composite
def feeds(draw: Any) -> list[Any]:
    """Slots of several streams and their ends, interleaved: (stream, rows) or (stream, None)."""
    streams = []
    for stream in range(draw(st.integers(1, 4))):
        sizes = draw(st.lists(st.integers(0, 40), max_size=6))
        streams.append([*((stream, size) for size in sizes), (stream, None)])
    items = []
    while any(streams):
        stream = draw(st.sampled_from([s for s in streams if s]))
        items.append(stream.pop(0))
    return items


def check(batch: Batch, seen: list[tuple[int, int]]) -> None:
    """All columns tell the same rows, what DLPack would get is aligned, and origins say whose rows they are."""
    rows = batch.rows
    assert rows == sum(count for _, count in batch.origin) > 0
    columns = batch.columns
    assert all(len(array) == rows for array in columns.values())
    assert all(array.dtype.hasobject or is_aligned(array) for array in columns.values())
    assert (columns["wide"] == columns["number"][:, None]).all()
    pairs = list(zip(columns["stream"].tolist(), columns["number"].tolist(), strict=True))
    assert columns["text"].tolist() == [f"{stream}/{number}" for stream, number in pairs]
    assert [stream for stream, count in batch.origin for _ in range(count)] == [stream for stream, _ in pairs]
    seen += pairs


@settings(max_examples=300, deadline=None)
@given(items=feeds(), sizes=st.lists(st.integers(1, 70), min_size=1, max_size=8), data=st.data())
def test_every_row_once_in_order_in_aligned_batches(items: list[Any], sizes: list[int], data: st.DataObject):
    assembler = Assembler()
    seen: list[tuple[int, int]] = []
    fed: dict[int, int] = {}
    turn = 0

    def size() -> int:
        nonlocal turn
        turn += 1
        return sizes[turn % len(sizes)]

    for stream, rows in items:
        if rows is None:
            assembler.end_stream(stream)
        else:
            assert assembler.wants_slot
            first = fed.get(stream, 0)
            fed[stream] = first + rows
            assembler.push(slot_of(stream, first, rows, data.draw(st.booleans())))
        while True:
            n = size()
            batch = assembler.take(n)
            if batch is None and assembler.wants_slot:
                break
            if batch is not None:
                assert batch.rows == n
                check(batch, seen)
    left = sum(fed.values()) - len(seen)
    assert assembler.waiting_rows == left
    while (batch := assembler.rest(n := size())) is not None:
        assert batch.rows == min(n, left)
        left -= batch.rows
        check(batch, seen)
    assert left == assembler.waiting_rows == 0
    for stream, rows in fed.items():
        assert [number for s, number in seen if s == stream] == list(range(rows))
    assert len(seen) == sum(fed.values())


@settings(max_examples=60, deadline=None)
@given(
    batch=st.sampled_from([64, 128]),
    slots=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), max_size=12),
    tail=st.integers(0, 63),
)
def test_slots_of_whole_batches_are_aliased(batch: int, slots: list[tuple[int, int]], tail: int):
    assembler = Assembler()
    fed: dict[int, int] = {}
    if tail:  # an ended partition's tail in the carry shifts nothing
        assembler.push(slot_of(9, 0, tail))
        assert assembler.take(batch) is None
        assembler.end_stream(9)
    for stream, count in slots:
        slot = slot_of(stream, fed.get(stream, 0), count * batch)
        fed[stream] = fed.get(stream, 0) + count * batch
        assembler.push(slot)
        for index in range(count):
            out = assembler.take(batch)
            assert out is not None
            assert np.shares_memory(out.columns["number"], slot.memory[index * batch : (index + 1) * batch])  # type: ignore[attr-defined]
        assert assembler.wants_slot
    assert assembler.aliased == sum(count for _, count in slots)
    assert assembler.copied == 0
    assert assembler.waiting_rows == tail


@settings(max_examples=100, deadline=None)
@given(
    slots=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 400), st.sampled_from([0, 16]), st.booleans()), max_size=8),
    sizes=st.lists(st.sampled_from([1, 16, 64, 100]), min_size=1, max_size=5),
    ends=st.booleans(),
)
def test_the_short_way_inside_a_slot_gives_what_take_gives(slots: list[Any], sizes: list[int], ends: bool):
    long, short = Assembler(), Assembler()
    fed: dict[int, int] = {}
    turn = 0
    for stream, rows, grain, alias in slots:
        for assembler in (long, short):
            slot = slot_of(stream, fed.get(stream, 0), rows, alias)
            slot.grain = grain
            slot.cut = lambda start, stop, cut=slot.cut: {name: cut(start, stop)[name] for name in ("number", "wide")}
            assembler.push(slot)
        fed[stream] = fed.get(stream, 0) + rows
        while not long.wants_slot:
            n = sizes[turn % len(sizes)]
            turn += 1
            expected = long.take(n)
            inside = short.inside(n)
            got = short.take(n) if inside is None else inside
            assert (expected is None) == (got is None)
            if expected is not None and got is not None:
                assert (got.rows, got.origin, type(got), got.aliased) == (
                    expected.rows,
                    expected.origin,
                    type(expected),
                    expected.aliased,
                )
                for name, array in expected.columns.items():
                    assert (array == got.columns[name]).all()
            assert short.wants_slot == long.wants_slot
            assert inside is None or not short.wants_slot
        if ends:
            for assembler in (long, short):
                assembler.end_stream(stream)
    assert (long.aliased, long.copied, long.waiting_rows) == (short.aliased, short.copied, short.waiting_rows)


def test_a_hoarding_reader_gets_copies():
    assembler = Assembler()
    slot = slot_of(0, 0, 64, alias=False)
    assembler.push(slot)
    batch = assembler.take(64)
    assert batch is not None
    assert not np.shares_memory(batch.columns["number"], slot.memory)  # type: ignore[attr-defined]
    assert (assembler.aliased, assembler.copied) == (0, 1)


def test_clearing_drops_rows_and_keeps_counts():
    assembler = Assembler()
    assembler.push(slot_of(0, 0, 100))
    assert assembler.take(64) is not None
    assert assembler.take(64) is None
    assert assembler.waiting_rows == 36
    assembler.push(slot_of(0, 100, 10))
    assembler.clear()
    assert assembler.wants_slot
    assert assembler.waiting_rows == 0
    assert assembler.rest(10) is None
    assert assembler.aliased == 1


def test_aligned_arrays_of_any_shape():
    for shape in ((0,), (1,), (7, 3), (3, 0, 2), ()):
        for dtype in (np.uint8, np.float32, np.complex128):
            array = aligned_empty(shape, np.dtype(dtype))
            assert array.shape == shape
            assert is_aligned(array)
    source = np.arange(20, dtype=np.float64)[1::2]
    assert not is_aligned(source)
    assert is_aligned(aligned_copy(source))
    assert (aligned_copy(source) == source).all()
