"""What becomes of None: what programs write in ``nulls=``, as policies. Nothing here needs TensorFlow. Pure."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np

from tfos_fast.channel.schema.columns import Octets
from tfos_fast.channel.schema.widen import EVERY, Nulls
from tfos_fast.errors import FormError, SchemaMismatch
from tfos_fast.values.dtypes import encodable
from tfos_fast.values.special import as_number


class _Mask:
    """The policy for nulls that keeps them: zeros, and a column of bools that says which rows have a value."""

    def __repr__(self) -> str:
        return "MASK"

    def __reduce__(self) -> str:
        return "MASK"  # there is one: it goes to ``main`` in its arguments, too


#: For ``nulls=``: a column of bools, called ``<name>_mask``, says which rows have a value; the others hold zeros.
MASK = _Mask()


def null_policies(nulls: Any) -> dict[str, Nulls]:
    """Read what becomes of None.

    Parameters
    ----------
    nulls : None, dict, MASK or a value
        Column name -> a number or text that stands for None, or :data:`MASK`. What is no dict is meant for every column.

    Returns
    -------
    dict
        Column name, or ``"*"`` for every other column -> policy.

    Raises
    ------
    FormError
    """
    if nulls is None:
        return {}
    policies = nulls if isinstance(nulls, dict) else {EVERY: nulls}
    for name in policies:
        if not isinstance(name, str):
            raise FormError(f"nulls has the key {name!r}; keys are names of columns")
    return {name: value if isinstance(value, Nulls) else _policy(name, value) for name, value in policies.items()}


def _policy(name: str, value: Any) -> Nulls:
    where = "nulls" if name == EVERY else f"column {name!r}: nulls"
    if value is MASK:
        return Nulls(mask=True)
    if isinstance(value, str) and value.rpartition(".")[2].lower() == "mask":
        write = "nulls=tfos_fast.MASK" if name == EVERY else f"nulls={{{name!r}: tfos_fast.MASK}}"
        text = f"for a column of bools write {write}, for the text itself {value.encode()!r}"
        raise FormError(f"{where} says the text {value!r}; {text}")
    if isinstance(value, bytes | bytearray):
        return Nulls(fill=Octets(bytes(value)))
    if isinstance(value, datetime.date | datetime.timedelta | np.datetime64 | np.timedelta64):
        raise _of_time(where, value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise FormError(f"{where} says {value}, which no integer type holds")
    if isinstance(value, str) and not encodable(value):
        raise FormError(f"{where} says {value!r}, which has no UTF-8 form")
    if isinstance(value, bool | int | float | str):
        return Nulls(fill=value)
    raise FormError(f"{where} says {value!r}; None can become a number, a text or tfos_fast.MASK")


def _of_time(where: str, value: Any) -> FormError:
    """The error for a date, time or duration that is to stand for None, with its number."""
    try:
        found = as_number(value)
    except SchemaMismatch as beyond:
        return FormError(f"{where} says {value!r}: {beyond}")
    if found is None:
        return FormError(f"{where} says {value!r}, which is no value; None can become a number, a text or tfos_fast.MASK")
    number, unit = found
    what = "dates have days since 1970-01-01" if unit == "date" else "times and durations have microseconds"
    return FormError(f"{where} says {value!r}; columns of {what}, so write {int(number)}")
