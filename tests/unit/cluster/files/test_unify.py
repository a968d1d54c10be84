"""Types and arrays of files that differ, by chance: what comes together keeps every value, slices and nulls included."""

from __future__ import annotations

import itertools
import math
from decimal import Context, Decimal

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfos_fast.cluster.files.conform import conform
from tfos_fast.cluster.files.unify import Differ, Held, holds, pairs, unify

thorough = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))

LEAVES = [
    pa.null(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32(), pa.uint64(), pa.float32(),
    pa.float64(), pa.decimal128(5, 2), pa.decimal128(9, 0), pa.decimal128(38, 10), pa.string(), pa.large_string(), pa.binary(),
    pa.binary(2), pa.date32(),
]  # fmt: skip


def types(depth=2):
    """Types, nested up to a depth."""
    if not depth:
        return st.sampled_from(LEAVES)
    inner = types(depth - 1)
    structs = st.lists(st.tuples(st.sampled_from("abcB"), inner), min_size=1, max_size=3, unique_by=lambda field: field[0])
    return st.one_of(
        inner, inner.map(pa.list_), inner.map(pa.large_list), inner.map(lambda kind: pa.list_(kind, 2)), structs.map(pa.struct),
        inner.map(lambda kind: pa.map_(pa.string(), kind)),
    )  # fmt: skip


def _apart(one, other):
    try:
        unify(Held(one), Held(other), "")
    except Differ:
        return True
    return False


TOGETHER = [pair for pair in itertools.product(LEAVES, LEAVES) if not _apart(*pair)]


@st.composite
def alike(draw, depth):
    """Two types of the same structure, which most often come together."""
    if depth and draw(st.booleans()):
        one, other = draw(alike(depth - 1))
        lists = [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 2)]
        shape = draw(st.sampled_from(["list", "struct", "map"]))
        if shape == "list":
            return draw(st.sampled_from(lists))(one), draw(st.sampled_from(lists))(other)
        if shape == "map":
            return pa.map_(pa.string(), one), pa.map_(pa.string(), other)
        more = draw(st.lists(st.tuples(st.sampled_from("bcdE"), types(1)), max_size=2, unique_by=lambda field: field[0]))
        return pa.struct([("a", one), *more]), pa.struct([*draw(st.permutations(more)), (draw(st.sampled_from("aA")), other)])
    return draw(st.sampled_from(TOGETHER)) if draw(st.integers(0, 9)) else (draw(types(1)), draw(types(1)))


def values(kind):
    """Values of a type, None among them."""
    whole = {8: 7, 16: 15, 32: 31, 64: 63}
    if pa.types.is_null(kind):
        return st.none()
    if pa.types.is_boolean(kind):
        found = st.booleans()
    elif pa.types.is_signed_integer(kind):
        found = st.integers(-(2 ** whole[kind.bit_width]), 2 ** whole[kind.bit_width] - 1)
    elif pa.types.is_integer(kind):
        found = st.integers(0, 2**kind.bit_width - 1)
    elif pa.types.is_floating(kind):
        found = st.floats(width=kind.bit_width, allow_nan=False)
    elif pa.types.is_decimal(kind):
        most = 10**kind.precision - 1
        found = st.integers(-most, most).map(lambda number: Decimal(number).scaleb(-kind.scale, DIGITS))
    elif pa.types.is_date(kind):
        found = st.dates()
    elif pa.types.is_fixed_size_binary(kind):
        found = st.binary(min_size=2, max_size=2)
    elif pa.types.is_binary(kind):
        found = st.binary(max_size=3)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        found = st.text(max_size=3)
    elif pa.types.is_struct(kind):
        found = st.fixed_dictionaries({kind.field(i).name: values(kind.field(i).type) for i in range(kind.num_fields)})
    elif pa.types.is_map(kind):
        found = st.lists(st.tuples(st.text(max_size=2), values(kind.item_type)), max_size=3)
    else:
        few = 2 if pa.types.is_fixed_size_list(kind) else 0
        found = st.lists(values(kind.value_type), min_size=few, max_size=2 if few else 3)
    return st.none() | found


DIGITS = Context(prec=60)


def same(one, other):
    """Whether a value came through: numbers by what they are, structs by their fields, whatever they are called."""
    if one is None or other is None:
        return one is None and other is None
    if isinstance(one, dict):
        used = pairs(list(one), list(other))
        kept = len(used) == len(one) and all(same(one[name], other[there]) for name, there in used.items())
        return kept and all(other[name] is None for name in other.keys() - set(used.values()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other and (not isinstance(one, float) or math.copysign(1, one) == math.copysign(1, other))


@thorough
@given(st.data(), alike(2))
def test_what_comes_together_keeps_its_values(data, kinds):
    one, other = kinds
    try:
        whole = unify(Held(one), Held(other), "x").kind
    except Differ:
        with pytest.raises(Differ, match=r"^x"):
            unify(Held(other), Held(one), "x")
        return
    for kind in (one, other):
        assert holds(Held(whole), Held(kind))
        array = pa.array(data.draw(st.lists(values(kind), max_size=5)), kind)
        start = data.draw(st.integers(0, len(array)))
        part = array.slice(start, data.draw(st.integers(0, 3)))
        found = conform(part, whole)
        found.validate(full=True)
        assert found.type == whole
        assert same(part.to_pylist(), found.to_pylist())


@thorough
@given(st.lists(types(1), min_size=3, max_size=3))
def test_the_type_of_many_files_holds_that_of_each(kinds):
    for order in (kinds, kinds[::-1]):
        whole = Held(order[0])
        try:
            for kind in order[1:]:
                whole = unify(whole, Held(kind), "x")
        except Differ:
            continue
        assert all(holds(whole, Held(kind)) for kind in kinds)


def test_names():
    assert pairs(["a", "B"], ["b", "A", "c"]) == {"a": "A", "B": "b"}
    assert pairs(["a", "A"], ["A"]) == {"A": "A"}
    assert pairs(["a"], ["A", "a"]) == {"a": "a"}
    assert pairs(["ab"], ["Ab", "AB"]) == {}
    assert pairs(["a", "x"], ["A"], exact=True) == {}
