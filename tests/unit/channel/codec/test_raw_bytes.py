"""Byte strings that are the memory of numbers, such as raw images, by a spec with a shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.support.helpers import ended, in_thread
from tests.support.rows import same
from tests.support.through_channel import through
from tfos_fast.channel import Channel
from tfos_fast.channel.broker.schema_agreement import Agreement
from tfos_fast.channel.codec import decode
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.channel.schema.widen import Nulls, apply_spec
from tfos_fast.errors import SchemaMismatch

SHAPE = (4, 4, 3)
SOURCES = ("rows", "pickled")
SPEC = {"c0": ("uint8", SHAPE)}


def image(i: int) -> np.ndarray:
    return np.full(SHAPE, i % 256, np.uint8)


def batch(values: list[Any], kind: Any = None) -> Any:
    return pa.record_batch([pa.array(values, kind)], names=["c0"])


def through_batches(batches: list[Any], spec: Any, n: int = 64, **form: Any) -> list[Any]:
    """The column's rows; the writer's error is raised."""
    with Channel.create(memory="1m", slot_bytes="16k", form=None) as channel:

        def write() -> None:
            with channel.writer() as writer:
                for each in batches:
                    writer.write_batch(each)

        thread, out = in_thread(write)
        reader = channel.reader()
        reader.open_columns(n, spec, wait=False, tensors=True, **form)
        got = []
        try:
            for columns in reader.batches(n):
                got += columns["c0"].tolist()
        except Exception as error:
            ended(thread)
            raise out[0] if isinstance(out[0], BaseException) else error from None
        finally:
            reader.close()
        ended(thread)
        return got


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_rows(kind: type, pickled: bool) -> None:
    rows = [(kind(image(i).tobytes()), i) for i in range(300)]
    got = through(rows, spec=SPEC, source=SOURCES[pickled], tensors=True)
    assert [row["c0"] for row in got] == [image(i).tolist() for i in range(300)]
    floats = [{"x": np.arange(3, dtype="<f4").tobytes()}, {"x": None}]
    got = through(floats, spec={"x": ("float32", (3,))}, nulls={"x": Nulls(fill=7)}, source=SOURCES[pickled])
    assert [row["x"] for row in got] == [[0, 1, 2], [7, 7, 7]]


def test_arrow_batches() -> None:
    images = [image(i).tobytes() for i in range(400)]
    assert through_batches([batch(images), batch(images).slice(7)], SPEC) == [
        image(i).tolist() for i in [*range(400), *range(7, 400)]
    ]
    assert through_batches([batch(images[:9], pa.binary(48))], SPEC) == [image(i).tolist() for i in range(9)]
    some = through_batches([batch([images[1], None])], SPEC, nulls={"c0": Nulls(fill=9)})
    assert some == [image(1).tolist(), image(9).tolist()]


@pytest.mark.parametrize("value", [b"short", 7, [1] * 48, None], ids=["length", "number", "list", "null"])
@pytest.mark.parametrize("pickled", [False, True])
def test_what_is_no_such_memory_is_named(value: Any, pickled: bool) -> None:
    rows = [(image(i).tobytes(), i) for i in range(300)]
    with pytest.raises(SchemaMismatch, match=r"row 300: column 'c0': .*uint8\[4,4,3\].*; the row is \("):
        through([*rows, (value, 300)], spec=SPEC, source=SOURCES[pickled], tensors=True)


def test_numbers_are_not_taken_for_memory_without_being_declared() -> None:
    """A value of the right number of bytes in a column of numbers is a misfit."""
    with pytest.raises(SchemaMismatch, match="row 1: column 'c0'"):
        through([([1.0, 2.0], 1), (b"x" * 16, 2)], spec={"c1": ("int64", ())}, tensors=True)
    schema = Schema("tuple", (Column("c0", "bytes"),))
    for spec in (("uint8", None), ("bool", (48,)), ("uint8", ()), ("uint8", (-1,))):
        with pytest.raises(
            SchemaMismatch, match="the rows have bytes; with a shape, byte strings are the memory of so many numbers"
        ):
            apply_spec(schema, {"c0": spec})


def test_slots_packed_before_the_spec_was_declared() -> None:
    plain = Schema("tuple", (Column("c0", "bytes"),))
    declared = apply_spec(plain, SPEC)
    values = np.array([image(i).tobytes() for i in range(3)], object)
    assert same(decode.convert({"c0": values}, plain, declared)["c0"], np.stack([image(i) for i in range(3)]))
    with pytest.raises(SchemaMismatch, match="cannot become"):
        decode.convert({"c0": np.array([b"x"], object)}, plain, declared)


def test_a_second_feeder_meets_what_was_declared() -> None:
    """Its rows are inferred anew, as bytes, after the columns were declared and even when they are fixed."""
    plain = Schema("tuple", (Column("c0", "bytes"), Column("c1", "fixed", "int64")))
    form = m.Form("columns", 8, spec=SPEC, tensors=True)
    agreement = Agreement()
    number, declared = agreement.propose(plain, form)
    assert agreement.propose(plain, form) == (number, declared)
    agreement.pin()
    assert agreement.propose(plain, form) == (number, declared)
    nulls = m.Form("columns", 8, spec=SPEC, tensors=True, nulls={"c0": Nulls(fill=1)})
    agreement = Agreement()
    agreement.propose(Schema("tuple", (Column("c0", "null", nulls="seen"),)), nulls)
    agreement.pin()  # a first batch of nothing but nulls
    for column in (Column("c0", "bytes"), Column("c0", "bytes", nulls="seen"), Column("c0", "null", nulls="seen")):
        _, declared = agreement.propose(Schema("tuple", (column,)), nulls)
        assert declared.columns == (Column("c0", "fixed", "uint8", SHAPE, "bytes", "fill", 1),)


def test_nulls_before_the_first_bytes_and_lists_of_a_second_feeder() -> None:
    rows = [(None, i) for i in range(100)] + [(image(i).tobytes(), i) for i in range(100)]
    got = through(rows, n=20, spec=SPEC, nulls={"c0": Nulls(fill=5)}, tensors=True)
    assert [row["c0"] for row in got] == [image(5).tolist()] * 100 + [image(i).tolist() for i in range(100)]
    with Channel.create(memory="1m", form=None, writers=2) as channel, channel.reader() as reader:
        reader.open_columns(8, SPEC, tensors=True, wait=False)
        with channel.writer() as one, channel.writer() as other:
            one.write_rows([(image(1).tobytes(), 1)] * 8)
            with pytest.raises(SchemaMismatch, match=r"row 0: column 'c0': expected uint8\[4,4,3\] \(bytes\), found a value"):
                other.write_rows([(image(1), 1)])


def test_a_misfit_in_an_arrow_batch_names_its_row() -> None:
    small = {"c0": ("uint8", ())}
    rows = [[*range(200)], [*range(77), 300, 301]]
    with pytest.raises(
        SchemaMismatch, match=r"row 277: column 'c0': expected uint8, from 0 to 255, the batch has int64; the row is \{'c0': 300\}"
    ):
        through_batches([batch(values) for values in rows], small)
    images = [image(1).tobytes()] * 1000
    with pytest.raises(SchemaMismatch, match=r"row 1005: column 'c0': expected uint8\[4,4,3\] \(bytes\), the batch has bytes"):
        through_batches([batch(images), batch([*images[:5], b"x"])], SPEC)
    lists = [[1.0, 2.0]] * 5000
    with pytest.raises(SchemaMismatch, match=r"row 5003: column 'c0': .*float64\[2\].*; the row is \{'c0': \[1.0\]\}"):
        through_batches([batch(lists), batch([*lists[:3], [1.0], *lists])], {"c0": ("float64", (2,))})
