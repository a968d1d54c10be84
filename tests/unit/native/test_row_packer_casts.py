"""Values in the packer: declared casts, safe ones, and what would change a value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.rows import drive, packer_for, rows_of, same, slot
from tfos_fast.channel.codec import decode
from tfos_fast.channel.codec.layout import layout
from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.native.row_packer import END, MISFIT, RowPacker


def packed(values: list[Any], dtype: str, *, shape: tuple[int, ...] = ()) -> np.ndarray | None:
    """The values as a declared column, or None when the packer refuses one."""
    schema = Schema("bare", (Column("c0", "fixed", dtype, shape),))
    packer = RowPacker(schema, exact=False, cast=True)
    form, memory = layout(schema, len(values), 1 << 16), slot(1 << 16)
    packer.bind(memory, form)
    event = packer.pack_from(iter(values), 60)
    return None if event == MISFIT else decode.columns(form, memory, 0, len(values))["c0"]


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([1, 2.5, True, np.float64(3), np.float32(4), np.int8(5)], "float32", [1, 2.5, 1, 3, 4, 5]),
        ([0, 255, True, np.int64(7), np.uint8(8)], "uint8", [0, 255, 1, 7, 8]),
        ([-128, 127], "int8", [-128, 127]),
        ([-(2**63), 2**63 - 1], "int64", [-(2**63), 2**63 - 1]),
        ([0, 2**63 - 1, np.uint64(2**64 - 1)], "uint64", [0, 2**63 - 1, 2**64 - 1]),
        ([0, 2**32 - 1], "uint32", [0, 2**32 - 1]),
        ([True, False, np.bool_(True)], "bool", [True, False, True]),
        ([1.5, 2, np.float32(0.25)], "float16", [1.5, 2, 0.25]),
        ([1j, 2.0, 3], "complex64", [1j, 2, 3]),
        ([1e300, -1e300], "float32", [np.inf, -np.inf]),
    ],
)
def test_declared_casts(values: list[Any], dtype: str, expected: list[Any]) -> None:
    out = packed(values, dtype)
    assert out is not None
    assert out.dtype == dtype
    assert out.tolist() == expected


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (256, "uint8"),
        (-1, "uint8"),
        (-1, "uint64"),
        (np.int64(-1), "uint64"),
        (128, "int8"),
        (2**31, "int32"),
        (2**32, "uint32"),
        (2**63, "int64"),
        (2**64, "float64"),
        (1.0, "int64"),
        (np.float32(1), "int64"),
        (1, "bool"),
        (1j, "float64"),
        ("1", "float64"),
        (None, "float64"),
        ([1.0], "float64"),
        (np.array([300]), "uint8"),
    ],
)
def test_what_would_change_its_value_is_a_misfit(value: Any, dtype: str) -> None:
    assert packed([value], dtype) is None


def test_without_a_declared_cast_only_safe_ones() -> None:
    packer, form, memory = packer_for(1.5, exact=False)
    rows = [1.5, 2, True, np.float32(0.5), np.uint64(3), np.array(7.5)]
    assert packer.pack_from(iter(rows), 60) == END
    assert decode.columns(form, memory, 0, 6)["c0"].tolist() == [1.5, 2, 1, 0.5, 3, 7.5]
    for first, second in ((1, 1.5), (np.float32(1), 1.5), (np.int32(1), 1), (True, 1), (1, 2**63)):
        packer, _, _ = packer_for(first, exact=False)
        assert packer.pack_from(iter([second]), 60) == MISFIT


def test_nan_and_infinity_survive_bit_for_bit() -> None:
    quiet = np.frombuffer(np.array([0x7FF8DEADBEEF0001], np.uint64).tobytes(), np.float64)[0]
    values = [float("nan"), float(quiet), -float("nan"), float("inf"), -float("inf"), -0.0, 5e-324]
    rows = [[value] * 20 for value in values]
    assert same(rows_of(drive(rows, exact=True)), rows)
    out = packed(values, "float64")
    assert out is not None
    assert out.tobytes() == np.array(values).tobytes()


def test_all_forms_of_one_column() -> None:
    """In column mode lists, tuples, arrays of any strides and nested mixtures of them are the same column."""
    base = np.arange(12.0).reshape(3, 4)
    forms = [
        base,
        base.tolist(),
        tuple(map(tuple, base.tolist())),
        np.asfortranarray(base),
        np.repeat(base, 2, axis=1)[:, ::2],
        base.astype(">f8"),
        base.astype(np.int32),
        [*base],
        [[np.float64(x) for x in row] for row in base],
        [[int(x) for x in row] for row in base],
        (base.tolist()[0], tuple(base.tolist()[1]), base[2]),
    ]
    out = packed(forms, "float64", shape=(3, 4))
    assert out is not None
    for each in out:
        assert each.tolist() == base.tolist()
    for other in (base[:2], base.ravel(), base.tolist()[:2], [[1.0] * 4, [1.0] * 4, [1.0] * 3], [1.0], 1.0, [[]]):
        assert packed([other], "float64", shape=(3, 4)) is None


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "uint64", "float16", "float32", "complex128"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 2)])
def test_arrays_of_every_type(dtype: str, shape: tuple[int, ...]) -> None:
    rows = [np.ones(shape, dtype), np.zeros(shape, dtype)[...]]
    assert same(rows_of(drive(rows, exact=True)), rows)
    # 64-bit integers have two names in C
    if dtype in ("int64", "uint64"):
        twin = np.ones(shape, np.longlong if dtype == "int64" else np.ulonglong)
        assert same(rows_of(drive([twin], exact=True)), rows[:1])


def test_row_mode_keeps_types_apart() -> None:
    pairs = [
        (1, True),
        (1, 1.0),
        (1.0, np.float64(1)),
        ([1.0], (1.0,)),
        ([[1.0]], [(1.0,)]),
        (np.float32(1), np.float64(1)),
        (np.zeros(2, np.float32), np.zeros(2)),
        (np.zeros(2), np.zeros(2, ">f8")),
        (np.zeros(2), [0.0, 0.0]),
        (b"x", bytearray(b"x")),
        (bytearray(b"x"), b"x"),
        ("x", np.str_("x")),
        ("x", "\ud800"),
    ]
    for first, second in pairs:
        packer, _, _ = packer_for((first,))
        assert packer.pack_from(iter([(first,), (second,)]), 60) == MISFIT, (first, second)


def test_narrow_columns_take_no_python_numbers_in_row_mode() -> None:
    """A row schema from Arrow may hold float32; a Python float there would come back rounded."""
    schema = Schema("bare", (Column("c0", "fixed", "float32", (), "float"),))
    packer = RowPacker(schema, exact=True)
    packer.bind(slot(4096), layout(schema, 8, 4096))
    assert packer.pack_from(iter([0.1]), 60) == MISFIT


def test_integers_of_every_size() -> None:
    values = [sign * (2**bits + extra) for bits in range(63) for extra in (-1, 0, 1) for sign in (1, -1)]
    values = [v for v in values if -(2**63) <= v < 2**63]
    rows = [values, values[::-1]]
    assert same(rows_of(drive(rows, exact=True, slot_bytes=1 << 16)), rows)
