"""Structs inside rows: None in their place, fields that some of them lack, names that meet, in any order of rows and partitions."""

from __future__ import annotations

import collections
import itertools
import pickle
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.helpers import broker_here, ended, in_thread
from tests.support.through_channel import ending, read, unbatched
from tfos_fast.channel import Channel
from tfos_fast.channel.broker.schema_agreement import Agreement
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.channel.schema.widen import Nulls
from tfos_fast.errors import SchemaMismatch

Row = pytest.importorskip("pyspark.sql.types").Row
_create_row = pytest.importorskip("pyspark.sql.types")._create_row
MASK = Nulls(mask=True)
Point = collections.namedtuple("Point", "x y")
SOURCES = ["rows", "pickled"]


def by_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["c0"])


# ---- None in the place of a struct --------------------------------------------------------------------------------------------

ROWS = [(0, None), (1, Row(x=1, y=2.5)), (2, None), (3, Row(x=3, y=None))]
ORDERS = [
    pytest.param([[0, 1, 2, 3]], id="first of a partition"),
    pytest.param([[1, 0, 3, 2]], id="later"),
    pytest.param([[0, 2], [1, 3]], id="a partition of None first"),
    pytest.param([[1, 3], [0, 2]], id="a partition of None last"),
    pytest.param([[3], [2], [1], [0]], id="one by one"),
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("order", ORDERS)
def test_a_struct_that_is_none_has_nulls_for_its_fields(order: list[list[int]], source: str) -> None:
    parts = [[ROWS[i] for i in part] for part in order]
    xs, ys = [None, 1, None, 3], [None, 2.5, None, None]
    plain = [{"c0": i, "c1.x": xs[i], "c1.y": ys[i]} for i in range(4)]
    assert by_first(read(parts, source=source)) == plain
    filled = [{"c0": i, "c1.x": xs[i] or -1, "c1.y": ys[i] or -1.0} for i in range(4)]
    assert by_first(read(parts, source=source, tensors=True, nulls={"*": Nulls(fill=-1)})) == filled
    for nulls in ({"c1": MASK}, {"c1.x": MASK, "c1.y": MASK}):
        masked = [
            {"c0": i, "c1.x": xs[i] or 0, "c1.x_mask": xs[i] is not None, "c1.y": ys[i] or 0.0, "c1.y_mask": ys[i] is not None}
            for i in range(4)
        ]
        assert by_first(read(parts, source=source, tensors=True, nulls=nulls)) == masked


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("only", [False, True])
def test_a_struct_that_is_none_under_a_spec(order: list[list[int]], source: str, only: bool) -> None:
    parts = [[ROWS[i] for i in part] for part in order]
    spec = {"c0": ("int32", ()), "c1.y": ("float32", ())}
    got = read(parts, source=source, spec=spec, nulls={"c1.y": Nulls(fill=0.5), "*": MASK}, tensors=True, only=only)
    ys = [0.5, 2.5, 0.5, 0.5]
    assert [(row["c0"], row["c1.y"]) for row in by_first(got)] == list(enumerate(ys))
    assert ("c1.x" in got[0]) is not only


@pytest.mark.parametrize("source", SOURCES)
def test_without_a_policy_the_error_names_what_to_do(source: str) -> None:
    found = r"row 0: column 'c1': it holds None, and nothing says .*nulls=\{'c1': 0\}.*the row is \(0, None\)"
    with pytest.raises(SchemaMismatch, match=found):
        read([ROWS], source=source, tensors=True)
    with pytest.raises(SchemaMismatch, match=r"row 0: column 'c1.y': the spec says float32, the rows have None"):
        read([ROWS], source=source, tensors=True, spec={"c1.y": ("float32", ())})


kinds = st.sampled_from(["row", "dict", "named"])
values = st.none() | st.fixed_dictionaries({}, optional={"x": st.none() | st.integers(0, 9), "y": st.none() | st.integers(0, 9)})
nested = st.none() | st.fixed_dictionaries({}, optional={"p": values, "z": st.integers(0, 9)})


def leaf(value: Any, *names: str) -> Any:
    for name in names:
        value = None if value is None else value.get(name)
    return value


@given(st.lists(st.lists(nested, max_size=5), min_size=1, max_size=4), st.sampled_from(SOURCES), st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_order_of_optional_fields_gives_the_same_columns(parts: list[list[Any]], source: str, rows: bool) -> None:
    number = itertools.count()

    def struct(value: Any) -> Any:
        if not isinstance(value, dict) or not rows:
            return value
        return _create_row(list(value), tuple(map(struct, value.values())))

    fed = [[(next(number), struct(value)) for value in part] for part in parts]
    flat = [value for part in parts for value in part]
    for form in ({}, {"nulls": {"c1": Nulls(fill=-1)}, "tensors": True}):
        got = by_first(read(fed, source=source, **form))  # type: ignore[arg-type]
        assert [row["c0"] for row in got] == list(range(len(flat)))
        for path in (("z",), ("p", "x"), ("p", "y")):
            column = [leaf(value, *path) for value in flat]
            name = ".".join(("c1", *path))
            if got and name in got[0]:
                assert [row[name] for row in got] == [(-1 if form else None) if value is None else value for value in column]
            else:
                assert not any(value is not None for value in column)


def test_mixtures_of_rows_dicts_and_named_tuples() -> None:
    parts = [[(0, Point(1, 2))], [(1, {"y": 4, "x": 3})], [(2, Row(x=5, y=6)), (3, None)]]
    got = read(parts, nulls={"*": Nulls(fill=0)}, tensors=True)
    assert by_first(got) == [{"c0": i, "c1.x": x, "c1.y": y} for i, (x, y) in enumerate([(1, 2), (3, 4), (5, 6), (0, 0)])]


@pytest.mark.parametrize("source", SOURCES)
def test_a_struct_and_something_else_in_one_column_is_refused_with_both(source: str) -> None:
    for rows in ([(0, {"x": 1}), (1, 5)], [(0, 5), (1, {"x": 1})], [(0, None), (1, {"x": 1}), (2, 5)]):
        with pytest.raises(SchemaMismatch, match=r"row \d: column 'c1': some rows have a struct .*others int64"):
            read([rows], source=source, tensors=True, nulls={"*": Nulls(fill=0)})


def test_a_column_declared_object_keeps_its_structs() -> None:
    rows = [(0, {"x": 1}), (1, None), (2, "text"), (3, {})]
    got = read([rows], spec={"c1": ("object", None)})
    assert got == [{"c0": i, "c1": value} for i, value in rows]


def test_a_field_that_no_struct_has_is_told_with_those_it_has() -> None:
    rows = [(i, {"label": i, "x": 0.5}) for i in range(3)]
    found = r"the spec names 'c1.lable'; the rows' struct 'c1' has the fields c1.label, c1.x.*nulls=\{'c1.lable'"
    with pytest.raises(SchemaMismatch, match=found):
        read([rows], spec={"c1.lable": ("int32", ())}, tensors=True)
    with pytest.raises(SchemaMismatch, match=r"the spec names 'c2.x'; the feed has the columns c0, c1.label, c1.x"):
        read([rows], spec={"c2.x": ("int32", ())}, tensors=True)
    got = read([rows], spec={"c1.more": ("int32", ())}, tensors=True, nulls={"c1.more": Nulls(fill=7)})
    assert [row["c1.more"] for row in got] == [7, 7, 7]


# ---- structs without fields ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("empty", [{}, _create_row([], ())], ids=["dict", "Row"])
def test_rows_of_nothing_but_an_empty_struct_are_there(source: str, empty: Any) -> None:
    assert read([[(empty,)] * 5], source=source) == [{"c0": empty}] * 5
    with broker_here("2m", "16k") as broker, Channel.attach(broker.address) as channel:

        def write() -> None:
            with ending(broker), channel.writer() as writer:
                writer.write_pickled([pickle.dumps([(empty,)] * 5)]) if source == "pickled" else writer.write_rows([(empty,)] * 5)

        thread, out = in_thread(write)
        with channel.reader() as reader:
            reader.open_columns(64, None, wait=False, tensors=True)
            batch = reader.next_batch(64)
            assert batch is not None
            assert (batch.rows, batch.columns) == (5, {})
        ended(thread)
        assert out == [None]


def test_an_empty_struct_beside_a_column_is_no_tensor_and_hinders_none() -> None:
    rows = [(i, {}) for i in range(5)]
    assert read([rows], tensors=True) == [{"c0": i} for i in range(5)]
    assert read([rows]) == [{"c0": i, "c1": {}} for i in range(5)]
    assert by_first(read([rows, [(5, {"x": 1})]], tensors=True, nulls={"c1.x": Nulls(fill=0)}))[-1] == {"c0": 5, "c1.x": 1}


# ---- names that meet ----------------------------------------------------------------------------------------------------------

TWICE = [
    ([{"a": {"b": 1}, "a.b": 2}], "'a.b'"),
    ([{"a.b": 2, "a": {"b": 1}}], "'a.b'"),
    ([{"a.b": 2, "a": None}, {"a.b": 2, "a": {"b": 1}}], "'a.b'"),
    ([{"a.b": 2, "a": None}, {"a": {"b": 1}}], "'a.b'"),
    ([Row("a", "a", "s")(1, 2, "x")], "'a'"),
    ([Row("a", "a", "s")(1, 2, Row(x=1))], "'a'"),
    ([(1, Row("a", "a")(1, 2))], "'c1.a'"),
    ([(1, {"p": Row("a", "b", "a")(1, 2, 3)})], "'c1.p.a'"),
    ([Row(a=1, b=2)] * 3 + [Row("a", "a")(1, 2)], "'a'"),
    ([{"x": {"a.b": 1, "a": {"b": 2}}}], "'x.a.b'"),
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize(("rows", "name"), TWICE)
def test_two_values_of_one_name_are_refused_by_name(rows: list[Any], name: str, source: str, tensors: bool) -> None:
    with pytest.raises(SchemaMismatch, match=rf"row \d: several columns are called {name}; give each.*; the row is"):
        read([rows], source=source, tensors=tensors, nulls={"*": Nulls(fill=0)} if tensors else {})


def test_rows_behind_one_that_is_refused_are_still_there() -> None:
    with broker_here("2m", "16k") as broker, Channel.attach(broker.address) as channel:
        rows = iter([{"a": {"b": i}} for i in range(3)] + [{"a": {"b": 1}, "a.b": 2}] + [{"a": {"b": i}} for i in range(3, 6)])

        def write() -> None:
            with ending(broker), channel.writer() as writer:
                with pytest.raises(SchemaMismatch, match="row 3: several"):
                    writer.write_rows(rows)
                writer.write_rows(rows)

        thread, out = in_thread(write)
        with channel.reader() as reader:
            reader.open_columns(64, wait=False)
            assert [row["a.b"] for batch in reader.batches(64) for row in unbatched(batch)] == list(range(6))
        ended(thread)
        assert out == [None]


@pytest.mark.parametrize("source", SOURCES)
def test_row_mode_gives_rows_of_any_names_back(source: str) -> None:
    rows = [row for some, _ in TWICE for row in some] + [(None,), ({},), Row("a", "a")(None, {}), None, {}]
    with broker_here("2m", "16k") as broker, Channel.attach(broker.address) as channel:

        def write() -> None:
            with ending(broker), channel.writer() as writer:
                writer.write_pickled([pickle.dumps(rows)]) if source == "pickled" else writer.write_rows(rows)

        thread, out = in_thread(write)
        got: list[Any] = []
        with channel.reader() as reader:
            while len(got) < len(rows) and (more := reader.next_rows(64)):
                got += more
        ended(thread)
        assert out == [None]
    assert got == rows
    for a, b in zip(got, rows, strict=True):
        assert type(a) is type(b)
        assert getattr(a, "__fields__", None) == getattr(b, "__fields__", None)


# ---- what rows with nothing in them leave open under a spec -------------------------------------------------------------------

LISTS = [
    ("string", [None, [], ["a", "b"], ["c"]]),
    ("string", [[], ["a"], None, []]),
    ("string", [None, "a", "b"]),
    ("string", [[], [["a"]], None]),
    ("string", [[], [["a"], []], [["b", "c"]]]),
    ("bytes", [[[]], [[b"a"]], []]),
    ("bytes", [[], [b"a"], None]),
    ("float32", [None, [1.0, 2.0], [3.0, 4.0]]),
    ("float32", [[], [1.0], None]),
    ("int64", [[], [[1], [2, 3]], None]),
    ("float32", [None, 1.5]),
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("dtype", "values"), LISTS)
def test_a_type_without_a_shape_takes_values_and_lists_in_any_order(dtype: str, values: list[Any], source: str) -> None:
    fixed = [len(value) for value in values if isinstance(value, list)]
    scalar = not fixed
    nothing: Any = ([0.0] * fixed[0] if len(set(fixed)) == 1 else []) if fixed else ("" if dtype == "string" else 0)
    for order in itertools.permutations(range(len(values))):
        for parts in ([[*order]], [[i] for i in order]):
            fed = [[(i, values[i]) for i in part] for part in parts]
            got = by_first(read(fed, source=source, spec={"c1": (dtype, None)}, nulls={"c1": MASK}, tensors=True))
            assert [row["c1_mask"] for row in got] == [value is not None for value in values]
            assert [row["c1"] for row in got] == [nothing if value is None else value for value in values], (order, scalar)


def test_columns_of_nothing_but_nulls_take_the_type_of_the_spec() -> None:
    spec = {"c0": ("string", None), "c1": ("float32", None), "c2": ("int8", ())}
    got = read([[(None, None, None)] * 3], spec=spec, nulls={"c0": Nulls(fill="x"), "c1": MASK, "c2": Nulls(fill=7)}, tensors=True)
    assert got == [{"c0": "x", "c1": 0.0, "c1_mask": False, "c2": 7}] * 3
    with pytest.raises(SchemaMismatch, match="its nulls are to become 'x', the rows have"):
        read([[(None,)]], spec={"c0": ("float32", None)}, nulls={"c0": Nulls(fill="x")}, tensors=True)
    with pytest.raises(SchemaMismatch, match=r"the spec says string, the rows have None, .*nulls=\{'c0': ''\}"):
        read([[(None,)]], spec={"c0": ("string", None)}, tensors=True)


def test_misspelt_columns_are_answered_by_the_nearest_name() -> None:
    rows = [{"image": 1.0, "label": 2}]
    with pytest.raises(SchemaMismatch, match=r"the spec names 'lable'; .*image, label; did you mean 'label'\?"):
        read([rows], spec={"lable": ("int32", ())})
    with pytest.raises(SchemaMismatch, match=r"nulls names 'imgae'; the feed has the columns image, label; did you mean 'image'\?"):
        read([rows], nulls={"imgae": MASK})
    with pytest.raises(SchemaMismatch, match=r"the feed has the columns image, label; the row is"):
        read([rows], spec={"zzz": ("int32", ())})


# ---- structs inside lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("make", [Point, lambda x, y: Row(x=x, y=y), lambda x, y: {"x": x, "y": y}], ids=["named", "Row", "dict"])
def test_structs_inside_lists_are_objects_with_their_names(make: Any, source: str) -> None:
    """As from a DataFrame; a list of Rows of numbers was an array without their names."""
    for value in ([make(1, 2), make(3, 4)], [[make(1, 2)], [make(3, 4), make(5, 6)]], [make("a", "b")], (make(0.5, 1),)):
        (row,) = read([[(0, value)]], source=source)
        assert repr(row["c1"]) == repr(value)
        with pytest.raises(SchemaMismatch, match=r"column 'c1': it holds .* no tensor; feed a list for each field"):
            read([[(0, value)]], source=source, tensors=True)
    for lists, structs in (([[1, 2]], [make(1, 2)]), ([["a"], ["a", "b"]], [make("a", "b")]), ([[1], [2, 3]], [[1], make(2, 3)])):
        got = read([[(0, lists), (1, structs)]], source=source)
        assert repr(got[1]["c1"]) == repr(structs)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("nulls", [{"c1.x": MASK}, {"c1.x": Nulls(fill=3.0), "*": MASK}, {"c1.p.q": Nulls(fill="-"), "c1.x": MASK}])
def test_policies_for_fields_of_a_struct_that_was_none_up_to_the_first_batch(nulls: Any, source: str) -> None:
    """Only the policies name the fields then; the broker failed over them."""
    got = read([[(i, None) for i in range(9)]], source=source, n=4, nulls=nulls)
    zero = nulls["c1.x"].fill or 0.0
    assert [row["c1.x"] for row in by_first(got)] == [zero] * 9
    more = [(i, None) for i in range(30)] + [(30, {"x": 7.0, "p": {"q": "a"}} if "c1.p.q" in nulls else {"x": 7.0})]
    late = by_first(read([more], source=source, n=4, nulls=nulls))
    assert late[30]["c1.x"] == 7.0
    assert len(late) == 31


def test_policies_that_come_late_for_fields_that_no_row_has_had_yet() -> None:
    """A writer knows the structs of rows ahead before it proposes their fields."""
    columns = tuple(Column(name, "fixed", "int64") for name in ("id", "d.a"))
    for structs in (("d",), ("d", "d.b")):
        agreement = Agreement()
        agreement.propose(Schema("dict", columns, structs), m.Form("columns", 8))
        agreement.rule(m.Form("columns", 8, nulls={"d.b.x": MASK}))
    with pytest.raises(SchemaMismatch, match=r"nulls names 'e\.b'"):
        agreement.rule(m.Form("columns", 8, nulls={"e.b": MASK}))


@pytest.mark.parametrize("source", SOURCES)
def test_a_field_that_only_a_policy_names_gives_way_to_those_that_rows_have(source: str) -> None:
    """The batches before could not become ones without it."""
    for parts in ([[(0, None), (1, {"x": 5})]], [[(0, None)], [(1, {"x": 5})]], [[(1, {"x": 5})], [(0, None)]]):
        got = by_first(read(parts, source=source, nulls={"c1.x": MASK, "c1.y": MASK}))
        assert [(row["c1.x"], row["c1.x_mask"]) for row in got] == [(0, False), (5, True)]


# ---- fields that no row has, and structs behind nothing but None --------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("nulls", [{"*": MASK}, {"*": Nulls(fill=0)}, {"c1": MASK}])
@pytest.mark.parametrize("tensors", [False, True])
def test_a_field_of_the_spec_that_no_row_has_is_refused(nulls: Any, tensors: bool, source: str) -> None:
    """It was a column of nothing but what stands for None."""
    spec = {"c1.age": ("float32", ()), "c1.agee": ("float32", ())}
    found = r"the spec names 'c1.agee'; the rows' struct 'c1' has the fields c1.age; did you mean 'c1.age'\?.*nulls=\{'c1.agee': 0"
    some = [(i, {"age": i}) for i in range(9)]
    for parts in ([some], [[(9, None)], some], [some, [(9, None)]]):
        with pytest.raises(SchemaMismatch, match=found):
            read(parts, spec=spec, nulls=nulls, source=source, tensors=tensors)


def behind_the_first_batch(first: list[Any], then: list[Any], source: str, **form: Any) -> list[dict[str, Any]]:
    """A writer goes on when the reader has read a batch of four."""
    with broker_here("2m", "16k") as broker, Channel.attach(broker.address) as channel:
        read_one = threading.Event()

        def write() -> None:
            with ending(broker), channel.writer() as writer:
                for part in (first, then):
                    writer.write_pickled([pickle.dumps(part)]) if source == "pickled" else writer.write_rows(part)
                    writer.end_partition()
                    assert read_one.wait(10)

        thread, out = in_thread(write)
        got: list[dict[str, Any]] = []
        with channel.reader() as reader:
            reader.open_columns(4, form.pop("spec", None), wait=False, **form)
            for batch in reader.batches(4):
                got += unbatched(batch)
                read_one.set()
        ended(thread)
        if isinstance(out[0], BaseException):
            raise out[0]
        return got


@pytest.mark.parametrize("source", SOURCES)
def test_a_field_of_the_spec_may_come_in_any_row_up_to_the_first_batch(source: str) -> None:
    spec = {"c1.x": ("float32", ()), "c1.p.q": ("int64", ())}
    values = [None, {"x": 1.0}, {"x": 2.0, "p": None}, {"p": {"q": 7}}, {}]
    for order in itertools.permutations(range(5)):
        for parts in ([order], [[i] for i in order]):
            got = by_first(read([[(i, values[i]) for i in part] for part in parts], spec=spec, nulls={"*": MASK}, source=source))
            assert [(row["c1.x"], row["c1.p.q"]) for row in got] == [(0, 0), (1, 0), (2, 0), (0, 7), (0, 0)]
    explicit = [(i, {"x": 1.0, "p": {"q": None}}) for i in range(5)]
    assert [row["c1.p.q_mask"] for row in read([explicit], spec=spec, nulls={"*": MASK}, source=source)] == [False] * 5


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("nulls", [{}, {"*": MASK}, {"*": Nulls(fill=0)}])
def test_a_struct_behind_a_first_batch_of_nothing_but_none_says_what_helps(nulls: Any, source: str) -> None:
    first, then = [(i, None) for i in range(9)], [(9, {"x": 1, "y": 2})]
    found = r"row 0: column 'c1': up to the first batch rows had only None .*, now a struct \(its fields: c1.x, c1.y\).*'c1.x'"
    with pytest.raises(SchemaMismatch, match=found):
        behind_the_first_batch(first, then, source, nulls=nulls)
    spec = {"c1.x": ("int64", ()), "c1.y": ("int64", ())}
    got = by_first(behind_the_first_batch(first, then, source, nulls={"*": MASK}, spec=spec))
    assert [row["c1.y"] for row in got] == [0] * 9 + [2]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("make", [Point, lambda x, y: Row(x=x, y=y), lambda x, y: {"x": x, "y": y}], ids=["named", "Row", "dict"])
def test_a_struct_among_lists_is_one_wherever_it_stands(make: Any, source: str) -> None:
    """A list was judged by its first item: the names of the others were lost."""
    one = make(3, 4)
    for value in ([(1, 2), one], [[1, 2], one], [np.array([1, 2]), one], [[[1, 2]], [one]], ([1, 2], one)):
        (row,) = read([[(0, value)]], source=source)
        assert repr(row["c1"]) == repr(value)
        (row,) = read([[(0, value)]], source=source, nulls={"c1": MASK})
        assert repr(row["c1"]) == repr(value)
