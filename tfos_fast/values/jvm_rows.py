"""What the JVM says of the rows that it pickles for ``DataFrame.rdd``: a ``StructType`` in JSON.

pyspark makes a converter of it, and its call makes the row. For most types the values go into the row as they are; dates, times and
types of users it converts, and such a row is unpickled.
"""

from __future__ import annotations

import functools
import json
from typing import Any

# Those for which pyspark's ``DataType.needConversion`` is False (apache/spark, python/pyspark/sql/types.py).
_AS_THEY_ARE = frozenset(
    ["boolean", "byte", "short", "integer", "long", "float", "double", "string", "binary", "null", "void"],
)


@functools.lru_cache(maxsize=256)
def names_of(text: bytes) -> tuple[str, ...] | None:
    """Names of the row's fields; None when a value of it is converted, or the text is no such type."""
    try:
        kind = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(kind, dict) or kind.get("type") != "struct" or not isinstance(kind.get("fields"), list):
        return None
    fields = [field if isinstance(field, dict) else {} for field in kind["fields"]]
    names = [field["name"] for field in fields if isinstance(field.get("name"), str)]
    if len(names) < len(fields) or not all(_goes_as_it_is(field.get("type")) for field in fields):
        return None
    return tuple(names)


def _goes_as_it_is(kind: Any) -> bool:
    if isinstance(kind, dict) and kind.get("type") == "array":
        return _goes_as_it_is(kind.get("elementType"))
    if isinstance(kind, dict) and kind.get("type") == "map":
        return _goes_as_it_is(kind.get("keyType")) and _goes_as_it_is(kind.get("valueType"))
    return isinstance(kind, str) and kind in _AS_THEY_ARE
