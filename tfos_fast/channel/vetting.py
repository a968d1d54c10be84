"""Python objects in slots that came over a network: they lie there pickled, and are looked through before anybody unpickles them.

An unpickler calls what a stream names. Between processes of one user on one host that does no harm; off a socket nothing may be
executed, whoever has sent it. So a value passes when its stream names nothing but the types below, which only hold data.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from tfos_fast.channel.kinds import is_pickled
from tfos_fast.channel.layout import Layout
from tfos_fast.channel.schema import ENTRY_BYTES, Schema
from tfos_fast.errors import SchemaMismatch

_NUMPY = {"_reconstruct", "scalar", "_frombuffer"}
_PLAIN = {
    "builtins": {"complex", "frozenset", "range", "set", "slice"},
    "collections": {"OrderedDict", "deque"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "uuid": {"UUID"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": _NUMPY,
    "numpy._core.multiarray": _NUMPY,
    "numpy.core.numeric": _NUMPY,
    "numpy._core.numeric": _NUMPY,
    "pyspark.sql.types": {"Row", "_create_row", "_create_row_inbound_converter"},
    "pyspark.ml.linalg": {"DenseVector", "SparseVector"},
}  # fmt: skip


class _Named(Exception):
    """The stream names something else."""


class _Looker(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _PLAIN.get(module, ()):
            raise _Named(f"{module}.{name}")
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise _Named(f"a persistent id {pid!r:.40}")


def has_objects(schema: Schema) -> bool:
    """Return whether the decoder unpickles the values of some column."""
    return any(map(is_pickled, schema.columns))


def vet(where: Layout, slot: Any, rows: int) -> None:
    """Look through the pickled values of a slot.

    Raises
    ------
    SchemaMismatch
        One is of a type that is not taken over a network, or cannot be read.
    """
    memory = memoryview(slot).cast("B")
    for offset, column in zip(where.offsets, where.schema.columns, strict=True):
        if not is_pickled(column):
            continue
        pairs = np.frombuffer(memory, np.uint32, 2 * rows, offset) if rows else np.empty(0, np.uint32)
        assert offset + rows * ENTRY_BYTES <= len(memory)
        for row, (start, length) in enumerate(pairs.reshape(-1, 2).tolist()):
            _look(bytes(memory[start : start + length]), column.name, row)


def _look(value: bytes, name: str, row: int) -> None:
    try:
        _Looker(io.BytesIO(value)).load()
    except _Named as found:
        raise SchemaMismatch(
            f"column {name!r}, row {row} of its slot: the value is made by {found}, and a feed over the network takes numbers, "
            "text, bytes, arrays, dates and containers of these only; convert such values before the feed, or give each host a "
            "node (num_executors)"
        ) from None
    except Exception as error:
        raise SchemaMismatch(f"column {name!r}, row {row} of its slot: a pickled value that cannot be read: {error!r}") from error
