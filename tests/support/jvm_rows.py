"""Rows as the JVM pickles them for ``DataFrame.rdd``."""

from __future__ import annotations

import io
import json
import pickle
from typing import Any

import pytest

types = pytest.importorskip("pyspark.sql.types")


def schema(**kinds: Any) -> str:
    """The JSON of a StructType with these fields."""
    fields = [{"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in kinds.items()]
    return json.dumps({"type": "struct", "fields": fields})


class _Type:
    def __init__(self, text: str) -> None:
        self.text = text


class _Converter:
    def __init__(self, kind: _Type) -> None:
        self.kind = kind

    def __call__(self) -> None: ...  # pickle asks for something callable


class _Row:
    def __init__(self, converter: _Converter, values: tuple[Any, ...]) -> None:
        self.converter, self.values = converter, values


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, _Type):
            return types._parse_datatype_json_string, (value.text,)
        if isinstance(value, _Converter):
            return types._create_row_inbound_converter, (value.kind,)
        if isinstance(value, _Row):
            return value.converter, value.values
        return NotImplemented


def pickled(rows: list[tuple[Any, ...]], text: str) -> bytes:
    """A batch as the JVM writes it: protocol 2, each row with a converter of its own, the schema once."""
    kind = _Type(text)
    out = io.BytesIO()
    _Pickler(out, 2).dump(tuple(_Row(_Converter(kind), row) for row in rows))
    return out.getvalue()


ROWS = [(i / 3, i, [i + 0.5] * 20, [list(range(i % 3))] * 2, f"é{i}", i % 2 == 0, None, {"k": i}) for i in range(300)]
SCHEMA = schema(
    x="double",
    n="long",
    v={"type": "array", "elementType": "double", "containsNull": False},
    deep={"type": "array", "elementType": {"type": "array", "elementType": "long", "containsNull": True}, "containsNull": True},
    s="string",
    b="boolean",
    none="integer",
    m={"type": "map", "keyType": "string", "valueType": "long", "valueContainsNull": True},
)
