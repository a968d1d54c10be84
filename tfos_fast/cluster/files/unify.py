"""One type for a column that has several in several files: it holds all values as they are, or there is none. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_DIGITS = {8: 3, 16: 5, 32: 10}
_MANTISSA = {16: 11, 32: 24, 64: 53}
_MOST_DIGITS = 38


@dataclass(frozen=True)
class Held:
    """What a column, or a part of one, holds.

    Attributes
    ----------
    kind : pyarrow.DataType
    node : str or dict, optional
        Spark's name of the type, in the JSON of its schemas, where Arrow's type does not say it all.
    """

    kind: Any
    node: Any = None


class Differ(Exception):
    """No type holds both.

    Attributes
    ----------
    path : str
        The part of the column, ``x.y``.
    one, other : Held
    """

    def __init__(self, path: str, one: Held, other: Held) -> None:
        super().__init__(path)
        self.path, self.one, self.other = path, one, other


def unify(one: Held, other: Held, path: str) -> Held:
    """Return the type that holds the values of both.

    Raises
    ------
    Differ
    """
    import pyarrow as pa

    a, b = one.kind, other.kind
    if one == other or pa.types.is_null(b):
        return one
    if pa.types.is_null(a):
        return other
    if _whole(one) or _whole(other):
        raise Differ(path, one, other)
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        return _structs(one, other, path)
    if pa.types.is_map(a) and pa.types.is_map(b):
        key = unify(Held(a.key_type, _inside(one, "keyType")), Held(b.key_type, _inside(other, "keyType")), f"{path}.key")
        value = unify(Held(a.item_type, _inside(one, "valueType")), Held(b.item_type, _inside(other, "valueType")), f"{path}.value")
        return Held(pa.map_(key.kind, value.kind), structure("map", keyType=key.node, valueType=value.node))
    if _is_list(a) and _is_list(b):
        left, right = (Held(side.kind.value_type, _inside(side, "elementType")) for side in (one, other))
        items = unify(left, right, f"{path}.element")
        node = structure("array", elementType=items.node)
        if pa.types.is_fixed_size_list(a) and pa.types.is_fixed_size_list(b) and a.list_size == b.list_size:
            return Held(pa.list_(items.kind, a.list_size), node)
        large = pa.types.is_large_list(a) or pa.types.is_large_list(b)
        return Held(pa.large_list(items.kind) if large else pa.list_(items.kind), node)
    kind = _leaf(a, b)
    if kind is None:
        raise Differ(path, one, other)
    return Held(kind)


def holds(whole: Held, part: Held) -> bool:
    """Whether a type that :func:`unify` has given holds the values of another one."""
    if whole == part:
        return True
    try:
        return unify(whole, part, "") == whole
    except Differ:
        return False


def pairs(wanted: Sequence[str], there: Sequence[str], *, exact: bool = False) -> dict[str, str]:
    """Return what the columns ``wanted`` are called where ``there`` is. Those that are not there are left out.

    Names that differ in upper and lower case only are the same, as in Spark, unless one side has both spellings, or ``exact``.
    """
    here = set(there)
    found = {name: name for name in wanted if name in here}
    if exact or len(found) == len(wanted) or len(found) == len(here):
        return found
    alike, rivals = by_case(there), by_case(wanted)
    for name in wanted:
        others = alike.get(name.lower(), [])
        if name not in found and len(others) == 1 and len(rivals[name.lower()]) == 1:
            found[name] = others[0]
    return found


def by_case(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the different names by what they are in lower case."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(name.lower(), []).append(name)
    return groups


def structure(kind: str, fields: dict[str, Any] | None = None, **parts: Any) -> Any:
    """Return the node of a struct, list or map: None when its parts have none."""
    if fields is not None:
        if all(node is None for node in fields.values()):
            return None
        return {"type": kind, "fields": [{"name": name, "type": node or "void"} for name, node in fields.items()]}
    if all(node is None for node in parts.values()):
        return None
    return {"type": kind, **{key: node or "void" for key, node in parts.items()}}


def field_node(node: Any, name: str) -> Any:
    """Return the node of a struct's field; None when it has none."""
    fields = node["fields"] if isinstance(node, dict) and "fields" in node else ()
    return next((field["type"] for field in fields if field["name"] == name and field["type"] != "void"), None)


def _structs(one: Held, other: Held, path: str) -> Held:
    """All fields of both: those of the first in its order, then the further ones."""
    import pyarrow as pa

    sides = [{side.kind.field(i).name: side.kind.field(i).type for i in range(side.kind.num_fields)} for side in (one, other)]
    if any(len(side) < held.kind.num_fields for side, held in zip(sides, (one, other), strict=True)):
        raise Differ(path, one, other)  # two fields of one name
    first, second = sides
    same = pairs(list(first), list(second))
    fields: dict[str, Held] = {}
    for name, kind in first.items():
        held = Held(kind, field_node(one.node, name))
        if name in same:
            held = unify(held, Held(second[same[name]], field_node(other.node, same[name])), f"{path}.{name}")
        fields[name] = held
    known = set(same.values())
    fields.update((name, Held(kind, field_node(other.node, name))) for name, kind in second.items() if name not in known)
    kind = pa.struct([(name, held.kind) for name, held in fields.items()])
    return Held(kind, structure("struct", fields={name: held.node for name, held in fields.items()}))


def _inside(held: Held, key: str) -> Any:
    node = held.node.get(key) if isinstance(held.node, dict) else None
    return None if node == "void" else node


def _whole(held: Held) -> bool:
    """Whether it is one value for Spark, or for Arrow's extension, whatever it is stored as."""
    import pyarrow as pa

    node = held.node
    udt = isinstance(node, dict) and node["type"] == "udt"
    return udt or isinstance(node, str) or isinstance(held.kind, pa.BaseExtensionType)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _leaf(a: Any, b: Any) -> Any:
    """The type of values that are no lists, structs or maps; None when there is none."""
    import pyarrow as pa

    if a == b:
        return a
    types = pa.types
    if types.is_decimal(a) or types.is_decimal(b):
        sizes = [_decimal(kind) for kind in (a, b)]
        if None in sizes:
            return None
        scale = max(size[1] for size in sizes)  # type: ignore[index]
        digits = scale + max(size[0] - size[1] for size in sizes)  # type: ignore[index]
        return pa.decimal128(digits, scale) if digits <= _MOST_DIGITS else None
    if types.is_integer(a) and types.is_integer(b):
        return _integers(a, b)
    if (types.is_integer(a) or types.is_floating(a)) and (types.is_integer(b) or types.is_floating(b)):
        return _floats(a, b)
    for family, kind in ((_is_text, pa.large_string()), (_is_binary, pa.large_binary())):
        if family(a) and family(b):
            return kind
    return None


def _integers(a: Any, b: Any) -> Any:
    import pyarrow as pa

    signed = [pa.types.is_signed_integer(kind) for kind in (a, b)]
    if signed[0] == signed[1]:
        return a if a.bit_width > b.bit_width else b
    plain, unsigned = (a, b) if signed[0] else (b, a)
    bits = max(plain.bit_width, 2 * unsigned.bit_width)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(bits)


def _floats(a: Any, b: Any) -> Any:
    import pyarrow as pa

    need = max(kind.bit_width if pa.types.is_floating(kind) else 0 for kind in (a, b))
    whole = max((kind.bit_width - pa.types.is_signed_integer(kind) for kind in (a, b) if pa.types.is_integer(kind)), default=0)
    kinds = {16: pa.float16(), 32: pa.float32(), 64: pa.float64()}
    return next((kinds[bits] for bits, digits in _MANTISSA.items() if bits >= need and digits >= whole), None)


def _decimal(kind: Any) -> tuple[int, int] | None:
    import pyarrow as pa

    if pa.types.is_decimal(kind):
        return kind.precision, kind.scale
    if pa.types.is_integer(kind):
        return _DIGITS.get(kind.bit_width, 19 + pa.types.is_unsigned_integer(kind)), 0
    return None


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return True
    return hasattr(pa, "string_view") and bool(kind == pa.string_view())


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return hasattr(pa, "binary_view") and bool(kind == pa.binary_view())
