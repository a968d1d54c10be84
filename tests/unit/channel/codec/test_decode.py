"""What comes back from a slot: equal rows of equal types in row mode, aliasing arrays in column mode."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.rows import Point, anything, drive, feeds, flat, floats, numbers, rows_of, same, slot
from tfos_fast.channel.codec import decode
from tfos_fast.channel.codec.layout import layout
from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.channel.schema.detect import infer
from tfos_fast.channel.schema.widen import join
from tfos_fast.errors import SchemaMismatch
from tfos_fast.native import row_decoder
from tfos_fast.native.row_packer import RowPacker
from tfos_fast.values.ragged import Ragged

thorough = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@given(feeds(), st.sampled_from([0.0, 30.0, 400.0]), st.integers(1, 9))
@thorough
def test_row_mode_gives_back_what_was_fed(rows: list[Any], heap_per_row: float, batch: int) -> None:
    slots = drive(rows, exact=True, slot_bytes=8192, heap_per_row=heap_per_row, batch=batch)
    assert same(rows_of(slots), rows)


@given(st.lists(anything, max_size=12))
@thorough
def test_row_mode_refuses_no_row(rows: list[Any]) -> None:
    assert same(rows_of(drive(rows, exact=True, slot_bytes=16384)), rows)


@given(st.lists(st.tuples(floats, flat, numbers), min_size=1, max_size=30))
@thorough
def test_slots_too_small_for_two_objects_still_take_all_rows(rows: list[Any]) -> None:
    slots = drive(rows, exact=True, slot_bytes=640, batch=1)
    assert same(rows_of(slots), rows)


@pytest.mark.parametrize(
    "row",
    [
        [float(i) for i in range(784)],
        tuple(range(100)),
        [[float(i), 2.0] for i in range(28)],
        [((1, 2), (3, 4))] * 20,
        [1.0] * 100 + [1],
        [object] * 2000,
        (1.0, True, 2, "é", b"\0", bytearray(b"x"), [], (), {}, [[]], [()], [[], []]),
        np.float64(1.5),
        np.array(7, np.int8),
        np.zeros((0, 3), np.float32),
        np.zeros((1,) * 20),
        Point(1.0, 2),
        {"a": 1, "b": [1.0]},
        {1: 2},
        {"\ud800": 1},
        "\ud800",
        2**63,
        -(2**63),
        -(2**70),
        float("nan"),
        float("-inf"),
        -0.0,
        None,
        (),
        [],
        {},
        "",
        b"",
    ],
    ids=lambda row: repr(row)[:30],
)
def test_single_rows_come_back(row: Any) -> None:
    rows = [row] * 3
    assert same(rows_of(drive(rows, exact=True, slot_bytes=65536)), rows)


def test_deep_and_circular_lists_come_back() -> None:
    deep: list[Any] = [1.0]
    for _ in range(40):
        deep = [deep]
    assert rows_of(drive([(deep,)], exact=True)) == [(deep,)]
    circular: list[Any] = []
    circular.append(circular)
    (back,) = rows_of(drive([(circular,)], exact=True))
    assert back[0][0] is back[0]


def test_dicts_of_another_order_keep_their_order() -> None:
    rows = [{"a": 1, "b": 2}, {"b": 3, "a": 4}, {"a": 5, "b": 6}]
    back = rows_of(drive(rows, exact=True))
    assert back == rows
    assert [list(row) for row in back] == [list(row) for row in rows]


def test_spark_rows_come_back_as_spark_rows() -> None:
    types = pytest.importorskip("pyspark.sql.types")
    rows = [types.Row(label=i, image=[float(i)] * 3, name=f"n{i}") for i in range(50)]
    back = rows_of(drive(rows, exact=True))
    assert same(back, rows)
    assert back[3].name == "n3"
    unnamed = types.Row(1, 2)
    assert same(rows_of(drive([unnamed, rows[0]], exact=True)), [unnamed, rows[0]])
    twice = types.Row("a", "a")(1, 2)
    assert same(rows_of(drive([twice], exact=True)), [twice])


def test_rows_are_copies() -> None:
    rows = [(np.arange(3), [1.0]), (np.arange(3), [2.0])]
    ((form, memory, count),) = drive(rows, exact=True)
    back = decode.rows(form, memory, 0, count)
    memory[:] = 0
    assert same(back, rows)
    back[0][0][:] = 9
    assert back[1][0].tolist() == [0, 1, 2]
    assert back[0][0].base is None, "a row that is kept must not keep its neighbours"


@given(st.lists(st.tuples(floats, st.lists(floats, min_size=3, max_size=3), st.text(max_size=5)), min_size=1, max_size=60))
@thorough
def test_column_mode_gives_arrays(rows: list[Any]) -> None:
    slots = drive(rows, exact=False, slot_bytes=2048)
    batches = [decode.columns(form, memory, 0, count) for form, memory, count in slots]
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    assert same(joined["c0"], np.array([row[0] for row in rows]))
    assert same(joined["c1"], np.array([row[1] for row in rows]))
    assert joined["c2"].tolist() == [row[2] for row in rows]


def test_fixed_columns_alias_the_buffer_and_keep_its_exporter() -> None:
    class Exporter(bytearray):
        pass

    schema = infer((1.0, [1, 2], "x"), exact=False)
    form = layout(schema, 10, 4096)
    buffer = Exporter(4096)
    packer = RowPacker(schema, exact=False)
    packer.bind(buffer, form)
    packer.pack_from(iter([(float(i), [i, -i], "x") for i in range(10)]), 60)
    packer.unbind()
    batch = decode.columns(form, buffer, 2, 9)
    assert np.shares_memory(batch["c0"], np.frombuffer(buffer, np.uint8))
    assert batch["c0"].tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert batch["c1"].tolist() == [[i, -i] for i in range(2, 9)]
    assert batch["c2"].tolist() == ["x"] * 7
    gone = weakref.ref(buffer)
    part = batch["c1"][3:, 1]
    with pytest.raises(BufferError):
        buffer.append(0)  # exported
    del buffer, batch
    gc.collect()
    assert gone() is not None
    assert part.tolist() == [-5, -6, -7, -8]
    del part
    gc.collect()
    assert gone() is None


def test_arrays_of_a_read_only_buffer_are_read_only() -> None:
    ((form, memory, count),) = drive([(1.0,)], exact=False)
    assert not decode.columns(form, memory.tobytes(), 0, count)["c0"].flags.writeable
    assert decode.columns(form, memory, 0, count)["c0"].flags.writeable


def test_no_rows_and_no_columns() -> None:
    ((form, memory, _),) = drive([(1.0, "x", [2])], exact=False)
    empty = decode.columns(form, memory, 1, 1)
    assert {name: array.shape for name, array in empty.items()} == {"c0": (0,), "c1": (0,), "c2": (0, 1)}
    ((form, memory, count),) = drive([()] * 7, exact=False)
    assert decode.columns(form, memory, 0, count) == {}
    assert decode.rows(form, memory, 2, 7) == [()] * 5


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1), (0, 999)])
def test_rows_outside_of_the_slot_are_refused(start: int, stop: int) -> None:
    ((form, memory, _),) = drive([(1.0, "x")], exact=True)
    for give in (decode.columns, decode.rows):
        with pytest.raises(ValueError, match="are not in a slot"):
            give(form, memory, start, stop)
    with pytest.raises(ValueError, match="the buffer has"):
        decode.rows(form, memory[:100], 0, 1)


def test_a_damaged_slot_raises() -> None:
    ((form, memory, _),) = drive(["text"], exact=True)
    memory[:8].view(np.uint32)[:] = (4000, 4000)
    with pytest.raises(ValueError, match="damaged"):
        decode.rows(form, memory, 0, 1)
    with pytest.raises(ValueError, match="are not in a slot"):
        row_decoder.heap_values(memory, 4096, 4090, 0, 2, "string")


def test_an_object_that_cannot_be_loaded_raises() -> None:
    ((form, memory, _),) = drive([None], exact=True)
    memory[form.heap :] = 0xFF
    with pytest.raises(Exception, match=r"pickle|invalid|load"):
        decode.rows(form, memory, 0, 1)


def test_convert_widens_a_batch() -> None:
    old = infer((1, 2.0, "x", [1.0], True), exact=False)
    new = join(old, infer((1.5, "y", "x", [1.0, 2.0], 3), exact=False), exact=False)
    batch = {
        "c0": np.array([1, 2]),
        "c1": np.array([1.0, 2.0]),
        "c2": np.array(["a", "b"], dtype=object),
        "c3": np.array([[1.0], [2.0]]),
        "c4": np.array([True, False]),
    }
    wide = decode.convert(batch, old, new)
    assert wide["c0"].dtype == np.float64
    assert wide["c0"].tolist() == [1.0, 2.0]
    assert same(wide["c1"].tolist(), [1.0, 2.0])
    assert wide["c1"].dtype == object
    assert wide["c2"] is batch["c2"]
    assert isinstance(wide["c3"], Ragged)
    assert wide["c3"].tolist() == [[1.0], [2.0]]
    assert same(wide["c4"], np.array([1, 0]))
    assert decode.convert(batch, old, old) is batch
    text = Schema("tuple", (Column("c0", "string"),))
    assert decode.convert({"c0": batch["c2"]}, text, Schema("tuple", (Column("c0", "object"),)))["c0"].tolist() == ["a", "b"]


def test_convert_does_not_narrow() -> None:
    one = Schema("tuple", (Column("c0", "fixed", "float64"),))
    with pytest.raises(SchemaMismatch, match="cannot become"):
        decode.convert({"c0": np.zeros(1)}, one, Schema("tuple", (Column("c1", "fixed", "float64"),)))
    with pytest.raises(SchemaMismatch, match="cannot become"):
        decode.convert({"c0": np.zeros(1)}, one, Schema("tuple", (Column("c0", "string"),)))


def test_slots_may_start_at_any_address_for_reading() -> None:
    ((form, memory, count),) = drive([(1.0, "x")] * 3, exact=True)
    crooked = slot(5000)[3 : 3 + memory.size]
    crooked[:] = memory
    assert decode.rows(form, crooked, 0, count) == [(1.0, "x")] * 3
