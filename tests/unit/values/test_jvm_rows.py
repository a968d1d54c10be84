"""Rows as the JVM pickles them for ``DataFrame.rdd``: a tuple of calls of a converter that is made of the frame's schema."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.jvm_rows import ROWS, SCHEMA, _Converter, _Pickler, _Row, _Type, pickled, schema
from tests.support.pickled_rows import check
from tests.support.rows import drive, rows_of, same
from tfos_fast.native.pickled.batch import StreamBatch
from tfos_fast.values.jvm_rows import names_of

types = pytest.importorskip("pyspark.sql.types")


@pytest.mark.parametrize("exact", [False, True], ids=["columns", "rows"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 300])
def test_rows_of_every_kind_are_the_same_as_unpickled(count: int, exact: bool) -> None:
    assert check(pickled(ROWS[:count], SCHEMA), exact=exact, slot_bytes=1 << 16)


def test_plain_rows_are_read_without_unpickling() -> None:
    rows = [(i / 3, -i * 5_000_000_000, [i + 0.5] * 20, f"é{i}", i % 2 == 0) for i in range(300)]
    kinds = {"v": {"type": "array", "elementType": "float", "containsNull": True}}
    stream = pickled(rows, schema(x="double", n="long", **kinds, s="string", b="boolean"))
    first = types.Row("x", "n", "v", "s", "b")(*rows[0])
    for exact in (False, True):
        batch = StreamBatch(lambda _: pytest.fail("it was unpickled"))
        assert batch.load(stream)
        slots = drive([first], exact=exact, slot_bytes=1 << 16, stream=batch)
        if exact:
            assert same(rows_of(slots), list(pickle.loads(stream)))


def test_rows_of_two_schemas_in_one_batch() -> None:
    one, two = _Type(schema(x="double", n="long")), _Type(schema(n="long", x="double"))
    rows = [_Row(_Converter(kind), (1.5, i) if kind is one else (i, 1.5)) for i in range(20) for kind in (one, one, two)]
    out = io.BytesIO()
    _Pickler(out, 2).dump(tuple(rows))
    for exact in (False, True):
        assert check(out.getvalue(), exact=exact)


CONVERTED = ["date", "timestamp", "decimal(10,2)", {"type": "udt"}, {"type": "array", "elementType": "date"}, {"type": "struct"}]


@pytest.mark.parametrize("kind", CONVERTED, ids=str)
def test_what_pyspark_converts_is_unpickled(kind: Any) -> None:
    assert names_of(schema(a="long", b=kind).encode()) is None
    assert not StreamBatch().load(pickled([(1, None)], schema(a="long", b=kind)))


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[" * 100_000, b"3", b'"long"', b'{"type":"struct"}', b'{"type":"struct","fields":[1]}']
)
def test_what_is_no_type_of_rows(text: bytes) -> None:
    assert names_of(text) is None


def test_types_that_go_as_they_are_are_those_that_pyspark_does_not_convert() -> None:
    for name in ("boolean", "byte", "short", "integer", "long", "float", "double", "string", "binary", "date", "timestamp"):
        kind = types._parse_datatype_json_string(schema(a=name))
        assert (names_of(schema(a=name).encode()) is None) == kind.fields[0].dataType.needConversion(), name


@pytest.mark.parametrize(
    "program",
    [
        b"cpyspark.sql.types\n_create_row_inbound_converter\nX\x01\0\0\0a\x85R.",  # made of no type
        b"cpyspark.sql.types\n_create_row_inbound_converter\n)R.",
        b"cpyspark.sql.types\n_parse_datatype_json_string\nK\x01\x85R.",
        b"cpyspark.sql.types\n_parse_datatype_json_string\nX\x02\0\0\0{}\x85R\x85.",
        b"]cpyspark.sql.types\n_create_row_inbound_converter\ncpyspark.sql.types\n_parse_datatype_json_string\nX\x02\0\0\0{}\x85R\x85Ra.",
    ],
)
def test_programs_by_hand(program: bytes) -> None:
    assert not StreamBatch().load(program)


values = {
    "double": st.none() | st.floats(),
    "long": st.none() | st.integers(-(2**63), 2**63 - 1),
    "string": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    "boolean": st.none() | st.booleans(),
    "binary": st.none() | st.binary(max_size=4),
}


@given(st.data(), st.lists(st.sampled_from([*values, "array"]), min_size=1, max_size=4), st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_anything_that_a_frame_can_hold(data: st.DataObject, kinds: list[str], exact: bool) -> None:
    lists = {"type": "array", "elementType": "double", "containsNull": True}
    text = schema(**{f"f{i}": lists if kind == "array" else kind for i, kind in enumerate(kinds)})
    row = st.tuples(*(st.lists(values["double"], max_size=4) if kind == "array" else values[kind] for kind in kinds))
    check(pickled(data.draw(st.lists(row, min_size=1, max_size=20)), text), exact=exact)
