"""Every kind of column through shared memory: ragged lists, text, nulls, structs; from rows, pickled rows and Arrow batches."""

from __future__ import annotations

import math
import pickle
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.helpers import ended, in_thread
from tests.support.pickled_rows import check
from tests.support.rows import drive, same
from tests.support.through_channel import through, unbatched
from tfos_fast.channel import Channel
from tfos_fast.channel.codec import decode
from tfos_fast.channel.schema.widen import Nulls
from tfos_fast.errors import SchemaMismatch
from tfos_fast.values.nested import decode as decode_nested
from tfos_fast.values.nested import encode, measure
from tfos_fast.values.ragged import Ragged, concatenate, deepen, from_array

some = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
many = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

ints, floats = st.integers(-(2**40), 2**40), st.floats(allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
rows_of_every_kind = st.lists(
    st.fixed_dictionaries({
        "i": st.none() | ints,
        "x": st.lists(floats, max_size=4),
        "deep": st.lists(st.lists(ints, max_size=3), max_size=3),
        "pairs": st.lists(st.tuples(floats, floats).map(list), max_size=3),
        "text": st.none() | texts,
        "words": st.lists(texts, max_size=3),
        "vector": st.none() | st.lists(floats, min_size=2, max_size=2),
    }),
    min_size=1,
    max_size=40,
)  # fmt: skip
SPEC = {
    "i": ("int64", ()), "x": ("float64", (-1,)), "deep": ("int64", (-1, -1)), "pairs": ("float64", (-1, 2)),
    "text": ("string", None), "words": ("string", (-1,)), "vector": ("float64", (2,)),
}  # fmt: skip
NULLS = {"i": Nulls(mask=True), "text": Nulls(fill="none"), "*": Nulls(fill=0.5)}
TYPES = {
    "i": pa.int64(), "x": pa.list_(pa.float64()), "deep": pa.list_(pa.list_(pa.int64())), "pairs": pa.list_(pa.list_(pa.float64())),
    "text": pa.string(), "words": pa.list_(pa.string()), "vector": pa.list_(pa.float64()),
}  # fmt: skip


def expected(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "i": row["i"] or 0,
        "i_mask": row["i"] is not None,
        "text": "none" if row["text"] is None else row["text"],
        "vector": row["vector"] or [0.5, 0.5],
    }


@given(rows_of_every_kind, st.sampled_from(["rows", "pickled", "arrow"]), st.integers(1, 20), st.integers(0, 40))
@some
def test_rows_of_every_kind_arrive(rows: list[dict[str, Any]], way: str, n: int, cut: int) -> None:
    with Channel.create(memory="128k", slot_bytes="8k", form=None) as channel:

        def write() -> None:
            with channel.writer() as writer:
                for part in (rows[:cut], rows[cut:]):
                    if way == "rows":
                        writer.write_rows(part)
                    elif way == "pickled":
                        writer.write_pickled([pickle.dumps(part, 5)])
                    else:
                        arrays = [pa.array([row[name] for row in part], kind) for name, kind in TYPES.items()]
                        writer.write_batch(pa.record_batch(arrays, names=list(TYPES)))

        thread, out = in_thread(write)
        with channel.reader() as reader:
            reader.open_columns(n, SPEC, nulls=NULLS, tensors=True, wait=False)
            got = [row for batch in reader.batches(n) for row in unbatched(batch)]
        ended(thread)
        assert out == [None]
        assert got == [expected(row) for row in rows]


@given(rows_of_every_kind, st.booleans(), st.sampled_from([2, 5]))
@many
def test_streams_give_what_unpickled_rows_give(rows: list[dict[str, Any]], cast: bool, protocol: int) -> None:
    spec = SPEC | {"x": ("float32", (-1,)), "deep": ("float32", (-1, -1))} if cast else None
    nulls = NULLS if cast else {"*": Nulls(fill=0.5), "i": Nulls(fill=-1), "text": Nulls(mask=True)}
    check(pickle.dumps(rows, protocol), exact=False, spec=spec, nulls=nulls, slot_bytes=2048)


@pytest.mark.parametrize("exact", [True, False])
def test_ragged_rows_are_read_without_unpickling(exact: bool) -> None:
    rows = [(list(range(i % 5)), np.arange(i % 3, dtype=np.float32), None if i % 4 else i) for i in range(100)]
    assert check(pickle.dumps(rows, 5), exact=exact, nulls={"c2": Nulls(mask=True)})


# ---- lists -------------------------------------------------------------------------------------------------------------------

nested = st.recursive(ints | floats | texts, lambda inner: st.lists(inner, max_size=3), max_leaves=10)


@given(nested.filter(lambda value: isinstance(value, list)))
@many
def test_what_is_measured_can_be_encoded_and_comes_back(value: list[Any]) -> None:
    form = measure(value)
    if form is None:
        return
    depth = len(form[1])
    shape = (-1,) * depth
    if not depth or (depth == 1 and form[0] not in ("string", "bytes")):
        return
    data = encode(value, form[0], shape, cast=False)
    assert data is not None
    (back,) = Ragged(*decode_nested([data], form[0], shape)).tolist()
    assert back == value


@pytest.mark.parametrize(
    ("value", "dtype", "shape", "cast"),
    [
        ([1.5], "int64", (-1,), True),
        ([300], "int8", (-1,), True),
        ([1], "int8", (-1,), False),
        (["a"], "int64", (-1,), True),
        ([1], "string", (-1,), True),
        ([b"a"], "string", (-1,), True),
        (["\ud800"], "string", (-1,), True),
        ([[1]], "int64", (-1,), True),
        ([1], "int64", (-1, -1), True),
        ([[1, 2, 3]], "int64", (-1, 2), True),
        (7, "int64", (-1,), True),
        (np.array(7), "int64", (-1,), True),
        ([None], "int64", (-1,), True),
    ],
)
def test_what_does_not_fit_is_refused(value: Any, dtype: str, shape: tuple[int, ...], cast: bool) -> None:
    assert encode(value, dtype, shape, cast=cast) is None


@pytest.mark.parametrize(("kind", "element"), [("U3", "string"), ("S3", "bytes")])
@pytest.mark.parametrize("shape", [(0,), (1, 0), (2, 0)])
def test_an_array_of_text_without_items_is_text(kind: str, element: str, shape: tuple[int, ...]) -> None:
    value = np.empty(shape, kind)
    assert measure(value) == (element, shape)
    data = encode(value, element, (-1,) * len(shape), cast=False)
    assert data is not None
    (back,) = Ragged(*decode_nested([data], element, (-1,) * len(shape))).tolist()
    assert back == value.tolist()


def test_ragged_rows_can_be_cut_joined_and_deepened() -> None:
    ragged = concatenate([from_array(np.arange(6).reshape(3, 2), 1), Ragged(np.array([7]), [np.array([0, 0, 1])])])
    assert ragged.tolist() == list(ragged) == [[0, 1], [2, 3], [4, 5], [], [7]]
    assert ragged[1:4].tolist() == [[2, 3], [4, 5], []]
    assert ragged[4:2].tolist() == []
    assert ragged.take(np.array([4, 0])).tolist() == [[7], [0, 1]]
    pairs = Ragged(np.arange(8).reshape(4, 2), [np.array([0, 1, 4])])
    assert deepen(pairs, 2).tolist() == pairs.tolist() == [[[0, 1]], [[2, 3], [4, 5], [6, 7]]]
    assert deepen(pairs, 2)[1:].tolist() == [[[2, 3], [4, 5], [6, 7]]]
    assert "2 rows" in repr(pairs)
    with pytest.raises(ValueError, match="successive"):
        ragged[::2]


def test_a_damaged_ragged_slot_raises() -> None:
    ((form, memory, count),) = drive([([1, 2], ["a"]), ([], [])], exact=False, spec={"c0": ("int64", (-1,))})
    assert decode.columns(form, memory, 0, count)["c0"].tolist() == [[1, 2], []]
    entries = memory[form.offsets[0] :].view(np.uint32)
    for field, value in ((1, 15), (0, form.slot_bytes), (1, form.slot_bytes)):
        before = int(entries[field])
        entries[field] = value
        with pytest.raises(ValueError, match="damaged"):
            decode.columns(form, memory, 0, count)
        entries[field] = before
    words = memory[form.offsets[1] :].view(np.uint32)
    words[1] = 8  # fewer bytes than the lengths inside say
    with pytest.raises(ValueError, match="damaged"):
        decode.columns(form, memory, 0, count)


# ---- structs, nulls, and what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pickled", [False, True])
def test_structs_become_columns_of_dotted_names(pickled: bool) -> None:
    rows = [{"a": i, "p": {"x": i / 2, "q": {"z": [i]}}} for i in range(200)]
    assert through(rows, source=("rows", "pickled")[pickled]) == [{"a": i, "p.x": i / 2, "p.q.z": [i]} for i in range(200)]
    mixed = [(1, {"x": 1}), (2, None), (3, {"x": 3})]
    got = through(mixed, source=("rows", "pickled")[pickled], nulls={"c1.x": Nulls(fill=-1)})
    assert got == [{"c0": 1, "c1.x": 1}, {"c0": 2, "c1.x": -1}, {"c0": 3, "c1.x": 3}]


def test_columns_of_nothing_but_nulls_take_the_type_of_what_stands_for_them() -> None:
    rows = [(None, None, None)] * 5
    nulls = {"c0": Nulls(fill=7), "c1": Nulls(fill="x"), "c2": Nulls(mask=True)}
    assert through(rows, nulls=nulls, tensors=True) == [{"c0": 7, "c1": "x", "c2": 0.0, "c2_mask": False}] * 5
    assert through(rows) == [{"c0": None, "c1": None, "c2": None}] * 5


def test_nulls_before_the_first_value_are_filled_when_the_type_is_known() -> None:
    rows = [(None, 1)] * 100 + [([1.0, 2.0], 1)] * 100
    got = through(rows, n=200, nulls={"c0": Nulls(fill=0.25)}, tensors=True)
    assert [row["c0"] for row in got] == [[0.25, 0.25]] * 100 + [[1.0, 2.0]] * 100


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, None)], r"row 0: column 'c1': it holds None, and nothing says.*nulls=\{'c1': 0\}.*the row is \(1, None\)"),
        ([(1, 2), (1, None)], r"row 1: column 'c1': expected int64, found None, and nothing says"),
        ([(1, [1, 2]), (1, "x")], r"row 1: column 'c1': expected int64\[2\], found one str; feed values of one kind"),
        ([(1, object)], r"row 0: column 'c1'"),
        ([(1, 2), (1, 2, 3)], r"row 1: rows differ in structure: .* and a tuple of 3.*; the row is \(1, 2, 3\)"),
    ],
    ids=["first", "null", "kinds", "object", "structure"],
)
def test_objects_are_refused_where_rows_bring_them(rows: list[Any], message: str) -> None:
    with pytest.raises(SchemaMismatch, match=message):
        through(rows, tensors=True)


@pytest.mark.parametrize("tensors", [True, False], ids=["tensors", "arrays"])
@pytest.mark.parametrize("source", ["rows", "pickled", "arrow"])
@pytest.mark.parametrize("at", [0, 1, 70])
@pytest.mark.parametrize(("value", "dtype", "fill"), [(2, "int32", "0"), ("x", "string", "''")])
def test_none_in_a_column_with_a_type_in_the_spec(at: int, source: str, value: Any, dtype: str, fill: str, tensors: Any) -> None:
    rows = [{"a": 1, "b": value}] * at + [{"a": 1, "b": None}, {"a": 1, "b": value}]
    found = rf"row {at}: column 'b': the spec says {dtype}, the rows have None.*nulls={{'b': {fill}}}.*MASK.*the row is .*None"
    with pytest.raises(SchemaMismatch, match=found):
        through(rows, spec={"b": (dtype, ())}, tensors=tensors, source=source)
    assert through(rows, spec={"b": ("object", None)}, source=source) == rows


HOLES = [
    ([{"x": [1.0, 2.0, None]}], 0, "[2]"),
    ([{"x": [1.0, 2.0, 3.0]}] * 70 + [{"x": [1.0, None, None]}], 70, "[1]"),
    ([{"x": [[1.0], [2.0, 3.0]]}, {"x": [[1.0], [2.0, None]]}], 1, "[1][1]"),
    ([{"x": ["a", "b"]}, {"x": [None, "b"]}], 1, "[0]"),
]


@pytest.mark.parametrize("spec", [None, True], ids=["inferred", "spec"])
@pytest.mark.parametrize("source", ["rows", "pickled", "arrow"])
@pytest.mark.parametrize(("rows", "row", "index"), HOLES, ids=["first", "later", "deep", "text"])
def test_none_inside_a_list_is_told_with_its_place(rows: Any, row: int, index: str, source: str, spec: Any) -> None:
    if spec:
        value = rows[0]["x"][0]
        spec = {"x": ("string", (-1,)) if value == "a" else ("float32", (-1, -1) if isinstance(value, list) else (3,))}
    message = rf"row {row}: column 'x': None at index {re.escape(index)} inside its list.*replace it.*'object'.*the row is"
    with pytest.raises(SchemaMismatch, match=message) as caught:
        through(rows, spec=spec or {}, tensors=True, source=source)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("source", ["rows", "pickled", "arrow"])
def test_a_column_declared_object_takes_none_inside_a_list(source: str) -> None:
    rows = [{"x": [1.0, None]}, {"x": [1.0, 2.0]}]
    assert through(rows, spec={"x": ("object", None)}, source=source) == rows


def test_lists_of_another_length_after_the_first_batch_are_named() -> None:
    with Channel.create(memory="1m", slot_bytes="16k", form=None) as channel, channel.reader() as reader:
        reader.open_columns(64, wait=False)
        with channel.writer() as writer:
            writer.write_rows([([1, 2], i) for i in range(1000)])
            batches = reader.batches(64)
            assert same(next(batches)["c0"], np.full((64, 2), [1, 2]))
            found = r"row 1000: column 'c0': expected int64\[2\], found values that need int64\[\?\]"
            with pytest.raises(SchemaMismatch, match=found):
                writer.write_rows([([1, 2, 3], 0)])


def test_bfloat16_and_halves_arrive() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rows = [(np.full(3, i, ml_dtypes.bfloat16), float(i), np.float16(i), complex(i, 1)) for i in range(100)]
    for pickled in (False, True):
        spec = {"c1": ("bfloat16", ()), "c3": ("complex64", ())}
        got = through(rows, source=("rows", "pickled")[pickled], spec=spec)
        assert [(row["c0"], row["c1"], row["c2"], row["c3"]) for row in got] == [([i] * 3, i, i, complex(i, 1)) for i in range(100)]
    assert math.isinf(through([(1e300,)], spec={"c0": ("float16", ())})[0]["c0"])
