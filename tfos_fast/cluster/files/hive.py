"""Columns that directories name (``day=2026-11-30/``): their values and types, as Spark's partition inference has them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from urllib.parse import unquote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tfos_fast.errors import SourceError

INFER = "spark.sql.sources.partitionColumnTypeInference.enabled"
ZONE = "spark.sql.session.timeZone"
NULL = "__HIVE_DEFAULT_PARTITION__"

_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"([+-]?)(?:(\d+)(?:\.(\d*))?|\.(\d+))(?:[eE]([+-]?\d{1,9}))?", re.ASCII)
_DOUBLE = re.compile(r"[+-]?(NaN|Infinity|(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[dDfF]?)", re.ASCII)
_HEXADECIMAL = re.compile(r"[+-]?0[xX]([0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)[pP][+-]?\d+[dDfF]?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d)?", re.ASCII)
_OFFSET = re.compile(r"(?:UTC|GMT|UT)?([+-])(\d{1,2})(?::?(\d\d))?")
_MOST_DIGITS = 38
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Inference:
    """How directory values become typed values.

    Attributes
    ----------
    types : bool
        False: every value is text, as with Spark's ``spark.sql.sources.partitionColumnTypeInference.enabled=false``.
    zone : str
        The time zone of timestamps, as ``spark.sql.session.timeZone`` has it. Empty: this machine's.
    """

    types: bool = True
    zone: str = ""

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Inference:
        """Take the settings of a Spark session."""
        return cls(settings.get(INFER, "true").lower() != "false", settings.get(ZONE, ""))


def keys_of(path: str, base: str) -> dict[str, str]:
    """Return the columns that the directories of a file name, with their values as the path spells them.

    Parameters
    ----------
    path : str
        Of a file.
    base : str
        Directories from here on count.

    Raises
    ------
    SourceError
        A directory has a name or a value only, or two directories name the same column.
    """
    keys: dict[str, str] = {}
    for part in path[len(base) :].split("/")[:-1]:
        name, sign, value = part.partition("=")
        if not sign:
            continue
        name = unquote(name)
        if not name or not value:
            raise SourceError(f"the directory {part!r} of {path} is no 'name=value'; rename the directory")
        if name.lower() in map(str.lower, keys):
            raise SourceError(f"the directories of {path} name the column {name!r} twice; rename one of the directories")
        keys[name] = value
    return keys


def typed(rows: Sequence[Mapping[str, str]], how: Inference) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Find the type of each column, and the values in this type.

    Parameters
    ----------
    rows : sequence of mapping
        What :func:`keys_of` says of each file. A file that lacks a column has null there. Names that differ in upper and lower case
        only are one column, under its first name, as in Spark.
    how : Inference

    Returns
    -------
    (dict of str to pyarrow.DataType, list of dict)
        Types by column name, and the values of each file. Values of timestamps are microseconds since 1970 in UTC.
    """
    import pyarrow as pa

    spelt: dict[str, str] = {}
    rows = [{spelt.setdefault(name.lower(), name): raw for name, raw in row.items()} for row in rows]
    kinds: dict[str, tuple[str, int]] = {}
    for row in rows:
        for name, raw in row.items():
            found = kind_of(raw) if how.types else ("null" if raw == NULL else "string", 0)
            kinds[name] = found if name not in kinds else wider(kinds[name], found)
    types = {
        "null": pa.null(), "int": pa.int32(), "long": pa.int64(), "double": pa.float64(), "date": pa.date32(),
        "timestamp": pa.timestamp("us", "UTC"), "string": pa.string(),
    }  # fmt: skip
    schema = {name: pa.decimal128(digits, 0) if kind == "decimal" else types[kind] for name, (kind, digits) in kinds.items()}
    zone = _zone(how.zone) if any(kind == "timestamp" for kind, _ in kinds.values()) else None
    return schema, [{name: _value(row.get(name, NULL), kind, zone) for name, (kind, _) in kinds.items()} for row in rows]


def kind_of(raw: str) -> tuple[str, int]:
    """Return the type that Spark infers of one value, and the digits of a decimal."""
    if raw == NULL:
        return "null", 0
    if _INTEGER.fullmatch(raw):
        number = int(raw)
        if -(2**31) <= number < 2**31:
            return "int", 0
        if -(2**63) <= number < 2**63:
            return "long", 0
    digits = _decimal_digits(raw)
    if digits:
        return "decimal", digits
    if _double(raw) is not None:
        return "double", 0
    if _timestamp(raw) is not None:
        return "timestamp", 0
    return ("string" if _date(raw) is None else "date"), 0


def wider(one: tuple[str, int], other: tuple[str, int]) -> tuple[str, int]:
    """Return the type that Spark gives a column with values of both types."""
    if one == other or other[0] == "null":
        return one
    if one[0] == "null":
        return other
    kinds = {one[0], other[0]}
    if kinds == {"int", "long"}:
        return "long", 0
    if kinds == {"int", "double"}:
        return "double", 0
    if kinds == {"date", "timestamp"}:
        return "timestamp", 0
    if kinds <= {"int", "long", "decimal"}:
        whole = {"int": 10, "long": 20}
        return "decimal", max(whole.get(kind, digits) for kind, digits in (one, other))
    return "string", 0


def _value(raw: str, kind: str, zone: tzinfo | None) -> Any:
    if raw == NULL:
        return None
    if kind in ("int", "long"):
        return int(raw)
    if kind == "decimal":
        return Decimal(int(Decimal(raw)))
    if kind == "double":
        return _double(raw)
    if kind == "date":
        return _date(raw)
    if kind == "timestamp":
        moment = _timestamp(raw)
        if moment is None:
            day = _date(raw)
            assert day is not None
            moment = datetime(day.year, day.month, day.day)
        # astimezone() of a naive moment takes it for this machine's time.
        aware = moment.astimezone() if zone is None else moment.replace(tzinfo=zone)
        return (aware - _EPOCH) // timedelta(microseconds=1)
    return unquote(raw)


def _decimal_digits(raw: str) -> int:
    """Digits of a whole number as Java's ``BigDecimal`` reads it; 0 when this is none, or has more than Spark's decimals."""
    match = _NUMBER.fullmatch(raw)
    if match is None:
        return 0
    _, whole, fraction, alone, exponent = match.groups()
    after = fraction or alone or ""
    places = len(after) - int(exponent or 0)
    digits = len(((whole or "") + after).lstrip("0")) or 1
    if places > 0 or digits - places > _MOST_DIGITS:
        return 0
    return digits - places


def _double(raw: str) -> float | None:
    """What Java's ``Double.parseDouble`` reads."""
    text = raw.strip(" \t\r\n\f\v")
    if _HEXADECIMAL.fullmatch(text):
        return float.fromhex(text.rstrip("dDfF") if text[-1] in "dDfF" else text)
    if not _DOUBLE.fullmatch(text):
        return None
    return float(text if text.endswith(("NaN", "Infinity")) else text.rstrip("dDfF"))


def _date(raw: str) -> date | None:
    try:
        return date.fromisoformat(raw) if _DATE.fullmatch(raw) else None
    except ValueError:
        return None


def _timestamp(raw: str) -> datetime | None:
    text = unquote(raw)
    if not _TIMESTAMP.fullmatch(text):
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f" if "." in text else "%Y-%m-%d %H:%M:%S").replace(tzinfo=None)
    except ValueError:
        return None


def _zone(name: str) -> tzinfo | None:
    if not name:
        return None
    match = _OFFSET.fullmatch(name)
    if match is not None:
        sign, hours, minutes = match.groups()
        offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
        return timezone(-offset if sign == "-" else offset)
    if name in ("Z", "UTC", "GMT", "UT"):
        return timezone.utc
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise SourceError(f"{ZONE} is {name!r}, which zoneinfo does not know; set a zone such as 'Europe/Berlin'") from error
