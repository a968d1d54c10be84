"""Rows read from a pickle stream: the same layouts and values as the unpickled rows give, whatever the stream holds."""

from __future__ import annotations

import datetime
import pickle
import pickletools
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import Row

from tests.support.pickled_rows import COMMON, check, outcome
from tests.support.rows import anything, drive, feeds, same, slot
from tfos_fast.channel.codec import decode
from tfos_fast.channel.codec.layout import layout
from tfos_fast.channel.codec.row_sources import PickledRows
from tfos_fast.channel.schema.detect import infer
from tfos_fast.channel.schema.widen import apply_spec
from tfos_fast.native.pickled.batch import StreamBatch
from tfos_fast.native.pickled.pack_rows import pack_stream
from tfos_fast.native.row_packer import END, FULL, TICK, RowPacker

relaxed = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
PROTOCOLS = [2, 3, 4, 5]


# ---- everything that hypothesis can make -------------------------------------------------------------------------------------


@relaxed
@given(feeds(), st.booleans(), st.sampled_from(PROTOCOLS))
def test_feeds(rows: list[Any], exact: bool, protocol: int) -> None:
    check(pickle.dumps(rows, protocol), exact=exact)


@relaxed
@given(st.lists(anything, max_size=6), st.booleans(), st.sampled_from(PROTOCOLS))
def test_anything(rows: list[Any], exact: bool, protocol: int) -> None:
    check(pickle.dumps(rows, protocol), exact=exact)


@relaxed
@given(st.data(), feeds(), st.booleans())
def test_damaged_streams(data: st.DataObject, rows: list[Any], exact: bool) -> None:
    """They are read, refused, or fail as the unpickler fails; never a crash."""
    stream = bytearray(pickle.dumps(rows, data.draw(st.sampled_from(PROTOCOLS))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream) - 1))
        stream[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not stream:
            return
    batch = StreamBatch()
    if not batch.load(bytes(stream)) or not batch.rows:
        return
    # What a damaged stream means is not said here: only that packing what was read of it ends.
    packer = RowPacker(infer((1.5, [1, 2], "x"), exact=exact), exact=exact)
    packer.bind(slot(1 << 16), layout(packer.schema, 64, 1 << 16))
    try:
        pack_stream(packer, batch, 60.0)
    except Exception:  # the unpickler's
        pass
    finally:
        packer.unbind()


# ---- what Spark keeps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("exact", [False, True], ids=["columns", "rows"])
@pytest.mark.parametrize("name", COMMON)
def test_common_rows_are_read_without_unpickling(name: str, exact: bool, protocol: int) -> None:
    stream = pickle.dumps(COMMON[name], protocol)
    arrays = name in ("pictures", "strided pictures", "numpy scalars", "numpy numbers")
    if (protocol < 3 and arrays) or (protocol < 5 and name == "text and bytes"):
        assert not StreamBatch().load(stream)  # older protocols pickle bytes (and bytearrays) as the call of a function
        return
    assert check(stream, exact=exact, slot_bytes=1 << 18)
    batch = StreamBatch(lambda _: pytest.fail("it was unpickled"))
    assert batch.load(stream)
    drive(COMMON[name][:1], exact=exact, slot_bytes=1 << 18, stream=batch)


@pytest.mark.parametrize("exact", [False, True], ids=["columns", "rows"])
@pytest.mark.parametrize("n", [0, 1, 2, 999, 1000, 1001, 1002, 2000, 2001])
def test_lists_of_any_length(n: int, exact: bool) -> None:
    assert check(pickle.dumps([(1.0, 2.0, i, 3.0, 4.0) for i in range(n)], 5), exact=exact, slot_bytes=1 << 17)
    assert check(pickle.dumps([[float(i) for i in range(n)]] * 3, 5), exact=exact, slot_bytes=1 << 18)
    assert check(pickle.dumps([[[i] for i in range(n)]], 5), exact=exact, slot_bytes=1 << 18)


@pytest.mark.parametrize("exact", [False, True], ids=["columns", "rows"])
def test_repeated_objects(exact: bool) -> None:
    row, values = ([1.5, 2.5], "name", 7), [3.5, 4.5]
    rows = [row, row, (values, "name", 8), (values, "other", 9), row]
    assert b"h" in pickle.dumps(rows, 5)
    assert check(pickle.dumps(rows, 5), exact=exact)


@pytest.mark.parametrize("exact", [False, True], ids=["columns", "rows"])
def test_rows_that_change_their_kind(exact: bool) -> None:
    rows = [(1.5, 2), (2.5, 3), (1, 3), (1.5, 2.5), ([1.0], 2), ("x", None), (1.5, 2), [1.5, 2], {"c0": 1.5, "c1": 2}, (1.5, 2**70)]
    assert check(pickle.dumps(rows[:8] + rows[9:], 5), exact=exact)


def test_a_spec_casts_and_refuses() -> None:
    rows = [([i + 0.25] * 784, i) for i in range(20)]
    spec = {"c0": ("float32", (784,)), "c1": ("uint8", None)}
    assert check(pickle.dumps(rows, 5), exact=False, spec=spec, slot_bytes=1 << 16)
    arrays = [(np.arange(600) / 3, i) for i in range(20)]
    assert check(pickle.dumps(arrays, 5), exact=False, spec={"c0": ("float32", None), "c1": ("float64", None)}, slot_bytes=1 << 16)
    batch = StreamBatch()
    assert batch.load(pickle.dumps([([0.5] * 784, 5), ([0.5] * 784, 300)], 5))
    schema = infer(([0.5] * 784, 5), exact=False)
    packer = RowPacker(apply_spec(schema, spec), exact=False, cast=True)
    packer.bind(slot(1 << 16), layout(packer.schema, 8, 1 << 16))
    assert pack_stream(packer, batch, 60.0) == 2
    assert (packer.rows, packer.misfit, packer.pending[1]) == (1, 1, 300)
    packer.unbind()


# ---- rows that are alike -----------------------------------------------------------------------------------------------------

ALIKE = ["floats and a label", "pictures", "a tuple and a label", "eleven columns", "pairs", "single", "numpy numbers", "booleans"]
SIZES = [0, 255, 256, 65535, 65536, -1, -(2**31), 2**31, 2**40, -(2**40), 2**63 - 1, -(2**63)]


def learnt(rows: list[Any], loads: Any = pickle.loads) -> StreamBatch:
    """A batch that has the pattern of these rows."""
    batch = StreamBatch(loads)
    assert batch.load(pickle.dumps(rows[:4], 5))
    return batch


@pytest.mark.parametrize("exact", [False, True], ids=["columns", "rows"])
@pytest.mark.parametrize("name", ALIKE)
def test_rows_alike_are_compared_from_the_second_batch_on(name: str, exact: bool) -> None:
    rows = COMMON[name]
    batch = learnt(rows, lambda _: pytest.fail("it was unpickled"))
    assert not batch.compared
    for some in (rows, rows[:1], rows[3:]):
        assert batch.load(pickle.dumps(some, 5))
        assert batch.compared == (len(some) > 1)
        assert same(outcome(some, exact=exact, slot_bytes=1 << 18), outcome(some, stream=batch, exact=exact, slot_bytes=1 << 18))


@pytest.mark.parametrize("exact", [False, True], ids=["columns", "rows"])
def test_ints_of_any_size_are_alike(exact: bool) -> None:
    rows = [([0.5, float(size)], size) for _ in range(100) for size in SIZES]
    batch = learnt(rows)
    assert check(pickle.dumps(rows, 5), batch, exact=exact)
    assert batch.compared
    assert check(pickle.dumps([*rows[:50], ([0.5, 1.0], 2**70), *rows[50:]], 5), batch, exact=exact)


@relaxed
@given(st.data(), feeds(), st.booleans())
def test_other_rows_after_the_pattern(data: st.DataObject, rows: list[Any], exact: bool) -> None:
    """Whatever was learnt: what comes then is what its unpickled rows give."""
    name = data.draw(st.sampled_from(ALIKE))
    kind = COMMON[name]
    batch = learnt(kind)
    mixed = kind[:3] + data.draw(st.lists(st.sampled_from(rows), max_size=3) if rows else st.just([])) + kind[3:6]
    check(pickle.dumps(rows, 5), batch, exact=exact)
    check(pickle.dumps(mixed, 5), batch, exact=exact, slot_bytes=1 << 16)


@pytest.mark.parametrize("exact", [False, True], ids=["columns", "rows"])
def test_what_a_compared_row_holds_can_come_again(exact: bool) -> None:
    rows = [(np.full((2, 2), i, np.uint8), i) for i in range(10)]
    for again in (rows[5], (rows[5][0], 99)):
        batch = learnt(rows)
        assert check(pickle.dumps([*rows, again, *rows], 5), batch, exact=exact)
        assert not batch.compared, "the batch has to be parsed"


def test_the_pattern_stands_for_its_bytes_only() -> None:
    """Another shape, another dtype, another function: what is no field has to be the same."""
    rows = [(np.full((2, 8), i, np.uint8), i) for i in range(10)]
    others = [[(np.full((4, 4), i, np.uint8), i) for i in range(10)], [(np.full((2, 4), i, np.uint16), i) for i in range(10)]]
    others += [[(np.full((2, 2), i, np.float32), i) for i in range(10)], [(np.full(16, i, np.uint8), i) for i in range(10)]]
    others += [[(np.full((2, 8), i, np.int8), i) for i in range(10)], [(np.full((2, 8), i, np.bool_), i) for i in range(10)]]
    for other in others:
        batch = learnt(rows)
        assert check(pickle.dumps(other, 5), batch, exact=False)
        assert batch.compared, "the other pattern was learnt"
        assert check(pickle.dumps([*rows, *other, *rows], 5), batch, exact=True)


def test_later_opcodes_that_change_a_compared_row() -> None:
    rows = [[1.5, 2.5, i] for i in range(5)]
    plain = pickle.dumps(rows, 5)
    assert plain.endswith(b"e.")
    third = 3  # what was remembered: the list of rows, rows 0, 1, 2
    for program in (b"h%cK\x07a" % third, b"h%c(K\x07e" % third, b"K\x07a", b"(K\x07K\x08e"):
        stream = b"\x80\x05" + plain[plain.index(b"]") : -2] + program + b"e."
        assert same(pickle.loads(stream)[2] != rows[2] or pickle.loads(stream)[4] != rows[4], True)
        batch = learnt(rows)
        assert check(stream, batch, exact=True)


def test_a_packer_for_which_the_pattern_is_nothing() -> None:
    rows = [([1.5, 2.5], i) for i in range(30)]
    ragged = {"c0": ("float32", (-1,)), "c1": ("int64", None)}
    for options in ({"spec": ragged, "exact": False}, {"exact": True}, {"exact": False}):
        batch = learnt(rows)
        assert check(pickle.dumps(rows, 5), batch, **options)
    batch = learnt(rows)
    assert batch.load(pickle.dumps(rows, 5))
    batch.skip(7)
    found = outcome(rows, stream=batch, exact=False, spec=ragged)
    assert same(found, outcome(rows[7:], exact=False, spec=ragged))


# ---- events ------------------------------------------------------------------------------------------------------------------


def test_full_leaves_the_row_in_the_stream_and_ticks_pass() -> None:
    batch = StreamBatch()
    assert batch.load(pickle.dumps(list(range(20)), 5))
    packer = RowPacker(infer(1, exact=True), exact=True)
    memory = slot(4096)
    packer.bind(memory, layout(packer.schema, 12, 4096))
    assert pack_stream(packer, batch, 0) == TICK
    assert (packer.rows, batch.position) == (8, 8)
    assert pack_stream(packer, batch, 60) == FULL
    assert (packer.rows, batch.position, packer.has_pending) == (12, 12, False)
    assert batch.rest() == [*range(12, 20)]
    packer.unbind()
    packer.bind(memory, layout(packer.schema, 12, 4096))
    assert pack_stream(packer, batch, 60) == END
    assert decode.rows(packer.layout, memory, 0, packer.rows) == [*range(12, 20)]
    packer.unbind()


def test_short_batches_of_a_slow_source_tick_too() -> None:
    """A reader that starves gets what there is, though no batch lasts as long as a tick."""

    def slow():
        for i in range(3):
            time.sleep(0.02)
            yield pickle.dumps([i], 5)

    packer = RowPacker(infer(1, exact=True), exact=True)
    packer.bind(slot(4096), layout(packer.schema, 12, 4096))
    source = PickledRows(slow(), pickle.loads)
    assert [source.pack(packer, 0.01) for _ in range(4)] == [TICK, TICK, TICK, END]
    assert packer.rows == 3
    packer.unbind()


def test_a_row_larger_than_the_planned_heap_and_one_larger_than_a_slot() -> None:
    assert check(pickle.dumps([("x" * 3000,), ("y",), ("z" * 3500,)], 5), exact=False, heap_per_row=10.0)
    assert check(pickle.dumps([("y",), ("x" * 5000,)], 5), exact=False, heap_per_row=10.0)


def test_a_batch_can_be_used_again_and_let_go() -> None:
    batch = StreamBatch()
    for rows in ([1, 2], [], [[1.5] * 2000] * 2, [{"a": 1}]):
        assert batch.load(pickle.dumps(rows, 5))
        assert (batch.rows, batch.position) == (len(rows), 0)
        assert batch.rest() == rows
        assert batch.skip(1) == min(1, len(rows))
        assert batch.rest() == rows[1:]
        assert batch.skip(10) == max(0, len(rows) - 1)
        assert batch.rest() == []
    assert not batch.load(b"")
    assert (batch.rows, batch.rest()) == (0, [])


# ---- what is refused ---------------------------------------------------------------------------------------------------------


class Meddler:
    """Its unpickling changes a list that was read before."""

    def __init__(self, victim: list[Any]) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return (list.append, (self.victim, 2.0))


def test_unknown_functions_are_never_called_and_refuse_the_batch() -> None:
    victim = [1.0]
    assert not StreamBatch().load(pickle.dumps([(victim, 1), (Meddler(victim), 2)], 5))
    for value in (datetime.date(2020, 1, 1), complex(1, 2), {1, 2}, print, np.float64, Row):
        assert not StreamBatch().load(pickle.dumps([(1, value)], 5))


def test_values_that_stay_closed_cost_only_their_own_rows() -> None:
    swapped, columns = np.array([1.5], ">f8"), np.asfortranarray(np.ones((2, 3)))
    for value in (2**70, swapped, columns, "\ud800", np.float16(1)):
        assert check(pickle.dumps([(1, 2), (1, value), (1, 3)], 5), exact=True)


def test_no_list() -> None:
    for value in ({"a": 1}, 1.5, "text", None):
        assert not StreamBatch().load(pickle.dumps(value, 5))


def test_cut_short_anywhere() -> None:
    for name, rows in COMMON.items():
        stream = pickle.dumps(rows[:2], 5)
        for end in range(0, len(stream) - 1, 1 if len(stream) < 2000 else 41):
            assert not StreamBatch().load(stream[:end]), name
        assert not StreamBatch().load(stream + b"."), name


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x05](e.",  # an empty chunk
        b"\x80\x05](e](ee.",
        b"\x80\x05]\x94(h\x00h\x00e.",  # a list within itself
        b"\x80\x05](G?\xf0\0\0\0\0\0\0\x86e.",  # a pair of one
        b"\x80\x05](G?\xf0\0\0\0\0\0\0G?\xf0\0\0\0\0\0\0G?\xf0\0\0\0\0\0\0\x86e.",  # a run of floats cut in two
        b"\x80\x05]((G?\xf0\0\0\0\0\0\0\x85e.",  # a mark that nobody takes
        b"\x80\x05a.",
        b"\x80\x05]K\x01aK\x02a.",
        b"\x80\x05](K\x01K\x02u.",
        b"\x80\x05}(K\x01u.",
        b"\x80\x05]q\x05h\x05.",
        b"\x80\x05]\x94h\x01.",
        b"\x80\x05]\x8a\x00a\x8a\x09\x01\x02\x03\x04\x05\x06\x07\x08\x09a\x8b\x02\0\0\0\xff\x7fa.",
        b"R.",
        b"b.",
        b"](\x8c\x05numpy\x8c\x05dtype\x93e.",
    ],
)
def test_programs_by_hand(program: bytes) -> None:
    try:
        expected = pickle.loads(program)
    except Exception:
        expected = None
    batch = StreamBatch()
    read = batch.load(program)
    if expected is None:
        assert not read, pickletools.dis(program)
    elif read:
        assert batch.rows == len(expected)
