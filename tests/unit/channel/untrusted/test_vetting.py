"""Values that came over a network: data is read, everything else is refused, and nothing costs more than its bytes allow."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import pickle
import pickletools
import struct
import subprocess
import sys
import tracemalloc
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.hostile import HOSTILE, count8, named, whole
from tests.fuzz.hostile import text as s
from tests.fuzz.values import Target, mutated
from tfos_fast.channel.codec.decode import rows
from tfos_fast.channel.codec.layout import layout
from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.channel.untrusted import vetting
from tfos_fast.channel.untrusted.budget import Budget, Refused
from tfos_fast.channel.untrusted.pickles import build
from tfos_fast.channel.untrusted.types import NAMES
from tfos_fast.channel.untrusted.vetting import ALLOWED, COST, vet
from tfos_fast.errors import SchemaMismatch

UTC = datetime.timezone.utc
PAIR = np.dtype([("a", "<i4"), ("b", "S3", (2,))])
#: Each comes back equal, and of its own type.
DATA: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    255,
    256,
    -1,
    65536,
    2**31,
    -(2**31),
    2**63,
    2**2000,
    -(2**70),
    0.0,
    -1.5,
    float("inf"),
    1j,
    "",
    "a",
    "é" * 300,
    "x" * 70_000,
    "\ud800",
    b"",
    b"a",
    b"b" * 300,
    bytearray(b"xyz"),
    bytearray(),
    [],
    [1, 2],
    list(range(3000)),
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    {},
    {"a": 1},
    {i: i for i in range(3000)},
    set(),
    {1, 2},
    {(1, "a")},
    frozenset([1, None]),
    [["a"] * 3] * 3,
    [[[]] * 500] * 20,
    {-1: 1, -2: 2, 2**61 - 1: 3, 0: 4},
    range(3),
    range(10**12, 0, -7),
    collections.OrderedDict(a=1, b=[2]),
    collections.deque([1, 2], 5),
    collections.deque([1]),
    datetime.date(2020, 1, 2),
    datetime.date.min,
    datetime.datetime(2020, 1, 2, 3, 4, 5, 6, fold=1),
    datetime.datetime.max,
    datetime.datetime(2020, 1, 1, tzinfo=UTC),
    datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=2), "x")),
    datetime.time(1, 2, 3, 4, fold=1),
    datetime.time(1, tzinfo=UTC),
    datetime.timedelta(-1, 2, 3),
    UTC,
    decimal.Decimal("1.50"),
    decimal.Decimal("1E+100"),
    decimal.Decimal("-Infinity"),
    fractions.Fraction(1, 3),
    uuid.UUID(int=5),
    uuid.UUID(int=2**128 - 1),
    {uuid.UUID(int=5): decimal.Decimal(1)},
    np.float32(1),
    np.bool_(True),
    np.int64(-5),
    np.str_("a"),
    np.str_(""),
    np.bytes_(b"q"),
    np.complex64(1j),
    np.longdouble(1),
    np.datetime64(5, "s"),
    np.timedelta64(5, "D"),
    np.datetime64(5, "25s"),
    np.zeros(1, PAIR)[0],
    np.dtype("f4"),
    np.dtype(">M8[us]"),
    PAIR,
    {np.float64(1.5): 1, np.datetime64(5, "s"): 2},
]
ARRAYS: list[np.ndarray] = [
    np.arange(3.0),
    np.arange(6.0).reshape(2, 3)[:, ::2],
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.zeros((2, 3, 4)).transpose(1, 0, 2),
    np.zeros((0, 3)),
    np.array(5),
    np.array(["a", "bc"]),
    np.array([b"a"]),
    np.array([1], ">i4"),
    np.zeros(2, PAIR),
    np.zeros(2, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    np.array([1, 2], "M8[us]"),
    np.array([1], "m8[25s]"),
    np.array(["NaT"], "M8[ns]"),
    np.array([1, "a", None, [1]], object).reshape(2, 2),
    np.array([[1, 2], [3, "a"]], object, order="F"),
    np.frombuffer(b"abcd", np.uint8),
    np.array([True, False]),
]


def read(stream: bytes, limit: int | None = None) -> Any:
    return build(stream, Budget(ALLOWED + COST * len(stream) if limit is None else limit))


def through(*values: Any) -> list[Any]:
    """The values as a reader gets them out of a slot that was vetted."""
    streams = [pickle.dumps(value, 5) for value in values]
    where = layout(Schema("bare", (Column("c0", "object"),)), len(values), 1 << 22)
    return rows(where, vetted(streams), 0, len(values))


def vetted(streams: list[bytes]) -> bytearray:
    where = layout(Schema("bare", (Column("c0", "object"),)), len(streams), 1 << 22)
    slot, top = bytearray(1 << 22), where.heap
    for row, stream in enumerate(streams):
        struct.pack_into("<II", slot, 8 * row, top, len(stream))
        slot[top : top + len(stream)] = stream
        top += len(stream)
    vet(where, slot, len(streams))
    return slot


@pytest.mark.parametrize("value", DATA, ids=lambda value: f"{type(value).__name__} {value!r:.40}")
def test_data_comes_as_it_is(value: Any):
    found = read(pickle.dumps(value, 5))
    assert type(found) is type(value)
    assert found == value
    assert repr(found) == repr(value) or isinstance(value, set | frozenset)
    assert pickle.dumps(found, 5) == pickle.dumps(pickle.loads(pickle.dumps(value, 5)), 5)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype} {array.shape}")
def test_arrays_come_as_they_are(array: np.ndarray):
    found, native = read(pickle.dumps(array, 5)), pickle.loads(pickle.dumps(array, 5))
    assert type(found) is np.ndarray
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert repr(found.tolist()) == repr(array.tolist())
    assert found.flags.writeable == native.flags.writeable
    assert np.isfortran(found) == np.isfortran(native)
    np.testing.assert_array_equal(through(array)[0], array)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype} {array.shape}")
def test_arrays_that_come_over_and_over(array: np.ndarray):
    """The third one of a shape and type is not built: around its numbers are the bytes of the ones before."""
    streams = [pickle.dumps(array, 5)] * 4
    where = layout(Schema("bare", (Column("c0", "object"),)), len(streams), 1 << 22)
    writeable = pickle.loads(streams[0]).flags.writeable
    for found in rows(where, vetted(streams), 0, len(streams)):
        assert (found.dtype, found.shape, found.flags.writeable) == (array.dtype, array.shape, writeable)
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("array", [np.zeros(100), np.full(100, -1, np.int16), np.zeros((4, 5), np.uint8, order="F"), np.array(0.0)])
def test_only_numbers_pass_without_a_look(array: np.ndarray):
    """Zeros and ones are what lengths and names around them may be, too."""
    vetting._arrays.clear()
    stream = pickle.dumps(array, 5)
    vetted([stream] * 3)
    head, tail, cost = vetting._arrays[len(stream)]
    assert len(stream) - len(head) - len(tail) == array.nbytes
    assert cost > array.nbytes
    numbers = range(len(head), len(stream) - len(tail))
    for at in range(len(stream)):
        changed = bytearray(stream)
        changed[at] ^= 0x55
        passes = changed.startswith(head) and changed.endswith(tail)
        assert passes == (at in numbers)
        if passes:
            found = pickle.loads(bytes(changed))
            assert (type(found), found.dtype, found.shape) == (np.ndarray, array.dtype, array.shape)


def test_arrays_that_are_known_are_charged():
    stream = pickle.dumps(np.arange(50_000.0), 5)
    vetted([stream] * 3)
    budget = Budget(3 * len(stream))
    vetting._anew(stream, "c0", 0, budget)
    with pytest.raises(SchemaMismatch, match="more memory"):
        for _ in range(4):
            vetting._anew(stream, "c0", 0, budget)


def test_rows_and_vectors_of_spark_come_as_they_are():
    from pyspark.ml.linalg import Vectors
    from pyspark.sql import Row

    row = Row(a=1, b=[Row(c=None)], when=datetime.date(2020, 1, 1))
    values = [row, [row, row], Vectors.dense([1.0, 2.0]), Vectors.dense([]), Vectors.sparse(4, [1], [2.0])]
    for value, found in zip(values, through(*values), strict=True):
        assert type(found) is type(value)
        assert found == value
    assert through(row)[0].__fields__ == ["a", "b", "when"]


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("VariantVal", {"value": b"\x01", "metadata": b"\x02"}),
        ("VariantVal", {"value": bytearray(b"\x01"), "metadata": bytearray(b"\x02")}),  # as Spark's own pickler gives them
        ("Geometry", {"wkb": b"\x01", "srid": 4326}),
        ("Geography", {"wkb": b"\x01", "srid": 4326}),
    ],
)
def test_values_that_are_spark_attributes_come_as_they_are(name, attributes, monkeypatch):
    types = pytest.importorskip("pyspark.sql.types")
    if not hasattr(types, name):
        pytest.skip(f"this pyspark has no {name}")
    value = getattr(types, name)(**attributes)
    for found in through(value, [value])[0], through([value])[0][0]:
        assert type(found) is type(value)
        assert vars(found) == attributes
    for wrong in {**attributes, "more": 1}, dict.fromkeys(attributes), {}:
        value.__dict__ = wrong
        with pytest.raises(SchemaMismatch, match=f"a {name} with arguments that pickle does not write|a value without its state"):
            through(value)
    stream = pickle.dumps(getattr(types, name)(**attributes), 5)
    monkeypatch.delattr(types, name)  # as in a pyspark that is older than the writer's
    with pytest.raises(SchemaMismatch, match=f"{name} of pyspark: install pyspark here, too, as new as the writer's"):
        vetting._anew(stream, "c0", 0, Budget(1 << 20))


def test_bfloat16_comes_as_it_is():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for value in (ml_dtypes.bfloat16(1.5), np.array([1, 2], ml_dtypes.bfloat16)):
        found = through(value)[0]
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")) | st.binary()
    | st.dates() | st.datetimes() | st.timedeltas() | st.decimals(allow_nan=False) | st.fractions() | st.uuids(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=5) | st.integers(), inner)
    | st.frozensets(st.integers() | st.tuples(st.text(max_size=3), st.integers())),
    max_leaves=20,
)  # fmt: skip


@given(st.lists(plain, min_size=1, max_size=4))
def test_any_data_comes_as_it_is(values: list[Any]):
    assert through(*values) == values


# ---- hostile streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_stream_is_refused_and_takes_little_memory(name: str):
    stream = HOSTILE[name]
    tracemalloc.start()
    try:
        with pytest.raises(SchemaMismatch, match="column 'c0', row 0"):
            vetted_one(stream)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3 * ALLOWED + 3 * COST * len(stream)


def vetted_one(stream: bytes) -> None:
    where = layout(Schema("bare", (Column("c0", "object"),)), 1, len(stream) + 8)
    slot = bytearray(struct.pack("<II", 8, len(stream)) + stream)
    vet(where, slot, 1)


def test_every_name_is_refused_with_arguments_that_are_not_its_own():
    wrong = [
        b")",
        b"N\x85",
        b"]\x85",
        b"J\xff\xff\xff\x7f\x85",
        b"NN\x86",
        b"K\x01K\x01\x86",
        b"NNN\x87",
        s("x") + b"\x85",
        b"C\x01x\x85",
        b"(NNNNt",
    ]
    sound = {
        ("builtins", "slice", b"NNN\x87"), ("collections", "deque", b")"), ("collections", "OrderedDict", b")"),
        ("fractions", "Fraction", b"K\x01K\x01\x86"),
    }  # fmt: skip
    for module, name in NAMES:
        for args in wrong:
            for opcode in (b"R", b"\x81"):
                if opcode == b"R" and (module, name, args) in sound:
                    continue
                with pytest.raises(Refused):
                    pickle.dumps(read(whole(named(module, name) + args + opcode)))


def test_the_budget_is_shared_by_the_values_of_a_slot():
    small = whole(b"](" + b"\x8f\x94" * 4000 + b"e")  # each alone is within what is allowed beside
    vetted([small])
    with pytest.raises(SchemaMismatch, match="times more memory"):
        vetted([small] * 50)


def test_a_stream_that_comes_over_and_over_is_charged_each_time():
    small = pickle.dumps([set() for _ in range(20)], 5)
    assert len(small) < 64
    values = through(*([[set()]] * 100))
    assert values == [[set()]] * 100
    assert values[0] is not values[1]
    vetted([small] * 10)
    with pytest.raises(SchemaMismatch, match="times more memory"):
        vetted([small] * 2000)


def test_floats_and_none_come_as_they_are_in_numbers():
    values = [1.5, None, float("-inf"), 0.0, None, -0.0, 2.0**-1074] * 50
    assert [repr(value) for value in through(*values)] == [repr(value) for value in values]


def test_what_a_reader_unpickles_was_written_here():
    """The stream of the sender, which another reader may understand otherwise, is replaced."""
    theirs = whole(b"\x95" + count8(1) + b"K\x05K\x06\x86")  # a frame of the wrong length
    slot = vetted([theirs, pickle.dumps({"a": 1}, 5)])
    start, length = struct.unpack_from("<II", slot, 0)
    assert bytes(slot[start : start + length]) == pickletools.optimize(pickle.dumps((5, 6), 5)) != theirs
    where = layout(Schema("bare", (Column("c0", "object"),)), 2, 1 << 22)
    assert rows(where, slot, 0, 2) == [(5, 6), {"a": 1}]


@pytest.mark.parametrize(
    "entries",
    [
        [(0, 4)],  # the table itself
        [(16, 30), (40, 10)],  # one over the other
        [(16, 10), (16, 10)],
        [(16, 10), (1 << 31, 10)],
        [(16, 10), (120, 10)],
    ],
)
def test_values_that_do_not_lie_apart_in_the_heap_are_refused(entries: list[tuple[int, int]]):
    where = layout(Schema("bare", (Column("c0", "object"),)), 2, 124)
    slot = bytearray(b"\x80\x05N." * 31)
    for row, entry in enumerate(entries):
        struct.pack_into("<II", slot, 8 * row, *entry)
    with pytest.raises(SchemaMismatch, match="damaged"):
        vet(where, slot, len(entries))


def test_mutated_streams_are_data_or_refused():
    """A short run of what ``make fuzz`` does for longer."""
    import random

    target, generator = Target(), random.Random(1)
    for _ in range(3000):
        target.attack(mutated(target.streams, generator))
    assert target.read > 50


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a range of many digits", "a range with arguments"),
        ("fractions of many digits", "many times more memory"),
        ("values of many fields", "many times more memory"),
        ("keys of a dict that look for their places", "keys that were chosen to take long"),
        ("keys of a set that look for their places", "keys that were chosen to take long"),
        ("keys of a frozenset that look for their places", "keys that were chosen to take long"),
        ("arrays in arrays", "nested too deep"),
        ("deques in deques", "nested too deep"),
        ("slices in slices", "nested too deep"),
    ],
)
def test_what_would_take_long_is_refused_for_that(name: str, why: str):
    """Each would be refused in the end, or is data; before that it took time that grows with the square of its length."""
    with pytest.raises(Refused, match=why):
        read(HOSTILE[name])


@pytest.mark.parametrize(
    "keys",
    [
        list(range(50_000)),
        [i << 40 for i in range(50_000)],
        [i / 2**20 for i in range(50_000)],
        [(i, f"{i}") for i in range(20_000)],
        [tuple(range(i, i + 200)) for i in range(3000)],
        [3**12_000 + i for i in range(2500)],
        [decimal.Decimal(i) for i in range(20_000)],
        [f"{i}" for i in range(50_000)],
    ],
    ids=["ints", "steps", "fractions", "tuples", "long tuples", "long ints", "decimals", "texts"],
)
def test_many_keys_that_nobody_has_chosen(keys: list[Any]):
    as_dict = dict.fromkeys(keys)
    assert list(read(pickle.dumps(as_dict, 5))) == keys
    assert read(pickle.dumps(set(keys), 5)) == set(keys)
    assert read(pickle.dumps(frozenset(keys), 5)) == frozenset(keys)


def test_deques_and_arrays_within_each_other():
    value: Any = None
    for _ in range(40):
        array = np.empty(1, object)
        array[0] = collections.deque([value])
        value = array
    found = read(pickle.dumps(value, 5))
    for _ in range(40):
        assert type(found) is np.ndarray
        (found,) = found[0]
    assert found is None


def test_a_deque_that_is_part_of_something_gets_no_more_items():
    """The depth of what holds it was counted before."""
    deques = named("collections", "deque") + b"\x94" + b"h\x00)R\x94" * 2
    with pytest.raises(Refused, match="part of something"):
        read(whole(b"](" + deques + b"h\x02ah\x02NaeN\x86"))


def test_a_process_survives():
    """It once made an object of any address, and freed arrays in arrays by a call within a call: the process died."""
    program = (
        "import sys; from tfos_fast.channel.untrusted.pickles import build; from tfos_fast.channel.untrusted.budget import *\n"
        "try: print(build(sys.stdin.buffer.read(), Budget(1 << 20)))\n"
        "except Refused as error: print('refused', error)"
    )
    for name in (
        "an array of addresses",
        "_frombuffer of addresses",
        "a scalar of an address",
        "a state of addresses",
        "a struct with an address",
        "arrays in arrays",
        "deques in deques",
    ):
        done = subprocess.run([sys.executable, "-c", program], input=HOSTILE[name], capture_output=True, timeout=120)
        assert done.returncode == 0
        assert done.stdout.startswith(b"refused")
