"""Runs of pickled floats, eight at a time, four at a time and one by one: the same values, from every length and place."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.rows import slot
from tfos_fast.channel.codec import decode
from tfos_fast.channel.codec.layout import layout
from tfos_fast.channel.schema.columns import Schema
from tfos_fast.channel.schema.detect import infer
from tfos_fast.channel.schema.widen import apply_spec
from tfos_fast.native.pickled.batch import StreamBatch
from tfos_fast.native.pickled.binfloat_simd import choose
from tfos_fast.native.pickled.pack_rows import pack_stream
from tfos_fast.native.row_packer import END, RowPacker

WAYS = [1, 4, 8]


@pytest.fixture(autouse=True)
def chosen() -> Iterator[None]:
    yield
    choose(8)


def packed_twice(schema: Schema, stream: bytes, rows: int, slot_bytes: int) -> Iterator[dict[str, np.ndarray]]:
    """Columns of the pickled rows, parsed, and then, if there are rows enough, compared with the pattern."""
    batch, plan = StreamBatch(), layout(schema, 64, slot_bytes)
    for turn in range(2):
        assert batch.load(stream)
        assert batch.compared == (turn == 1 and rows > 1)
        packer, memory = RowPacker(schema, exact=False, cast=True), slot(slot_bytes)
        packer.bind(memory, plan)
        assert pack_stream(packer, batch, 60.0) == END
        packer.unbind()
        yield decode.columns(plan, memory, 0, rows)


def test_a_machine_without_the_instructions_goes_one_by_one() -> None:
    assert [choose(1), choose(3)] == [1, 1]
    assert choose(4) in (1, 4)
    assert choose(8) in WAYS


@settings(deadline=None)
@given(
    st.lists(st.floats(width=64), min_size=1, max_size=60),
    st.integers(1, 4),
    st.sampled_from(["float32", "float64"]),
)
def test_all_ways_write_the_same(values: list[float], rows: int, dtype: str) -> None:
    data = [(list(values), i) for i in range(rows)]  # lists of their own: rows that refer to others have no pattern
    stream = pickle.dumps(data, 5)
    form = infer(data[0], exact=False)
    schema = apply_spec(form, {"c0": (dtype, None), "c1": ("int64", None)})
    with np.errstate(over="ignore"):
        expected = np.array([values] * rows, np.float64).astype(dtype)
    for most in WAYS:
        choose(most)
        for found in packed_twice(schema, stream, rows, 1 << 16):
            assert found["c0"].tobytes() == expected.tobytes()


@settings(deadline=None, max_examples=40)
@given(st.integers(60, 300), st.integers(1, 9), st.sampled_from(["float32", "float64"]), st.integers(0, 2**32 - 1))
def test_all_ways_write_the_same_past_the_caches(count: int, rows: int, dtype: str, seed: int) -> None:
    """Long runs into large slots: rows of odd lengths begin anywhere in a line of the cache, and end anywhere."""
    values = np.random.default_rng(seed).standard_normal((rows + 2, count))
    stream = pickle.dumps([(row.tolist(), i) for i, row in enumerate(values)], 5)
    schema = apply_spec(infer((values[0].tolist(), 0), exact=False), {"c0": (dtype, None), "c1": ("int64", None)})
    for most in WAYS:
        choose(most)
        for found in packed_twice(schema, stream, rows + 2, 1 << 20):
            assert found["c0"].tobytes() == values.astype(dtype).tobytes()
            assert found["c1"].tolist() == list(range(rows + 2))


@pytest.mark.parametrize("count", range(1, 40))
@pytest.mark.parametrize("other", [b"K\x07", b"N", b"\x88"])
def test_a_run_ends_where_something_else_stands(count: int, other: bytes) -> None:
    """The opcodes that decide it are looked at, and no bytes of a value are taken for one."""
    value = struct.unpack(">d", b"GGGGGGGG")[0]
    run = b"".join(b"G" + struct.pack(">d", value) for _ in range(count))
    stream = b"\x80\x04](" + run + other + run + b"e."
    read = [value] * count + [pickle.loads(b"\x80\x04" + other + b".")] + [value] * count
    assert pickle.loads(stream) == read
    for most in WAYS:
        choose(most)
        batch = StreamBatch()
        assert batch.load(stream)
        assert batch.rows == len(read)
        assert [batch.skip(1) for _ in range(len(read) + 1)] == [1] * len(read) + [0]
