"""Python values of Arrow arrays, as ``DataFrame.collect()`` gives them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def converter(kind: Any) -> Callable[[Any], Any] | None:
    """What turns Arrow's Python value of this type into Spark's; None when they are the same."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return lambda value: value.astimezone().replace(tzinfo=None)  # Spark's timestamps are naive, in local time
    if (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)) and collects_bytearrays():
        return bytearray
    if pa.types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        inner = [converter(kind.field(i).type) for i in range(kind.num_fields)]
        return lambda value: _row(names, [_apply(f, value[name]) for name, f in zip(names, inner, strict=True)])
    if pa.types.is_map(kind):
        key, item = converter(kind.key_type), converter(kind.item_type)
        return lambda value: {_apply(key, k): _apply(item, v) for k, v in value}
    if hasattr(kind, "value_field"):  # lists of any sort
        of = converter(kind.value_type)
        return None if of is None else lambda value: [_apply(of, each) for each in value]
    return None


def collects_bytearrays() -> bool:
    """Whether this pyspark gives binary values as ``bytearray`` (before 4.1); where there is none they are ``bytes``."""
    pyspark = sys.modules.get("pyspark")
    return pyspark is not None and tuple(map(int, pyspark.__version__.split(".")[:2])) < (4, 1)


def _apply(function: Callable[[Any], Any] | None, value: Any) -> Any:
    return value if function is None or value is None else function(value)


def _row(names: list[str], values: list[Any]) -> Any:
    try:
        from pyspark.sql.types import Row
    except ImportError:  # Arrow without Spark: a struct is a dict
        return dict(zip(names, values, strict=True))
    row = tuple.__new__(Row, values)
    row.__fields__ = names
    return row
