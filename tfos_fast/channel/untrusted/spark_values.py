"""The values of Spark that a pickled stream off a socket may hold, each made here from arguments that are checked first."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tfos_fast.channel.untrusted.budget import Budget, Name, Pending, are_types, check
from tfos_fast.errors import MissingDependency

_TYPES = "pyspark.sql.types"
_LINALG = "pyspark.ml.linalg"


def _spark(module: str, name: str) -> Any:
    """A class of pyspark.

    Raises
    ------
    MissingDependency
        Also where pyspark is older than the class.
    """
    try:
        return getattr(__import__(module, fromlist=[name]), name)
    except (ImportError, AttributeError) as error:
        raise MissingDependency(f"it is a {name} of pyspark: install pyspark here, too, as new as the writer's") from error


def _row(args: tuple[Any, ...], budget: Budget) -> Any:
    check(are_types(args, (list, tuple), (list, tuple)) and len(args[0]) == len(args[1]), "a Row")
    check(all(type(name) is str for name in args[0]), "a Row")
    budget.spend(200 + 8 * len(args[1]))
    row = tuple.__new__(_spark(_TYPES, "Row"), args[1])
    row.__fields__ = args[0]
    return row


def _dense(args: tuple[Any, ...], budget: Budget) -> Any:
    check(are_types(args, bytes) and len(args[0]) % 8 == 0, "a DenseVector")
    budget.spend(200 + len(args[0]))
    return _spark(_LINALG, "DenseVector")(np.frombuffer(args[0], np.float64) if args[0] else np.empty(0))


def _sparse(args: tuple[Any, ...], budget: Budget) -> Any:
    check(are_types(args, int, bytes, bytes) and 2 * len(args[1]) == len(args[2]) and len(args[2]) % 8 == 0, "a SparseVector")
    budget.spend(400 + 4 * len(args[2]))
    return _spark(_LINALG, "SparseVector")(*args)


class _SparkValue(Pending):
    """A value of one of Spark's classes that are nothing but their attributes. No code of the class runs, as in unpickling."""

    __slots__ = ("attributes", "name")

    def __init__(self, name: str, **attributes: tuple[type, ...]) -> None:
        super().__init__()
        self.name = name
        self.attributes = attributes

    def build(self, state: Any, budget: Budget) -> Any:
        sound = type(state) is dict and state.keys() == self.attributes.keys()
        check(sound and all(type(state[name]) in kinds for name, kinds in self.attributes.items()), f"a {self.name}")
        budget.spend(200)
        made = object.__new__(_spark(_TYPES, self.name))
        made.__dict__.update(state)
        return made


_OCTETS = (bytes, bytearray)

#: What a stream may name of pyspark.
SPARK_NAMES: dict[tuple[str, str], Name] = {
    (_TYPES, "_create_row"): Name(f"{_TYPES}._create_row", _row),
    (_LINALG, "DenseVector"): Name(f"{_LINALG}.DenseVector", _dense),
    (_LINALG, "SparseVector"): Name(f"{_LINALG}.SparseVector", _sparse),
}
_VALUES: dict[str, dict[str, tuple[type, ...]]] = {
    "VariantVal": {"value": _OCTETS, "metadata": _OCTETS},
    "Geometry": {"wkb": _OCTETS, "srid": (int,)},
    "Geography": {"wkb": _OCTETS, "srid": (int,)},
}
for _name, _attributes in _VALUES.items():
    SPARK_NAMES[_TYPES, _name] = Name(f"{_TYPES}.{_name}", new=functools.partial(_SparkValue, _name, **_attributes))
