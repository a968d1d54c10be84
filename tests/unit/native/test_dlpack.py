"""Rows of columns as DLPack capsules: the same memory, held as long as anybody has a part of it, and let go by whoever is last."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.helpers import wait_for
from tfos_fast.native.dlpack import Exporter, capsule
from tfos_fast.values.aligned import aligned_empty
from tfos_fast.values.dtypes import dtype_of

DTYPES = ["bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "float16", "float32", "float64"]
DTYPES += ["complex64", "complex128"]


class Holder:
    """What ``np.from_dlpack`` takes."""

    def __init__(self, of: Any) -> None:
        self.of = of

    def __dlpack__(self, **_: Any) -> Any:
        return self.of

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class Memory(np.ndarray):
    """An array that a weak reference may point to."""


def columns(rows: int, dtype: str, shape: tuple[int, ...]) -> list[np.ndarray]:
    first = aligned_empty((rows, *shape), dtype_of(dtype))
    first.reshape(-1).view(np.uint8)[:] = np.arange(first.nbytes) % (2 if dtype == "bool" else 251)
    return [first, np.arange(rows)]


@settings(deadline=None)
@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3), st.integers(1, 40), st.data())
def test_any_rows_of_any_column(dtype: str, shape: list[int], rows: int, data: st.DataObject) -> None:
    arrays = columns(rows, dtype, tuple(shape))
    exporter = Exporter(arrays)
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    for array, made in zip(arrays, exporter.capsules(start, stop), strict=True):
        got = np.from_dlpack(Holder(made))
        assert (got.dtype, got.shape) == (array.dtype, (stop - start, *array.shape[1:]))
        assert got.tobytes() == array[start:stop].tobytes()
        if got.size:
            assert got.ctypes.data == array[start:stop].ctypes.data


def test_columns_live_as_long_as_one_capsule_or_array() -> None:
    array = np.zeros(8).view(Memory)
    alive = weakref.ref(array)
    arrays = [array, np.zeros(8)]
    exporter = Exporter(arrays)
    arrays.clear()  # it has a list of its own
    capsules = exporter.capsules(2, 6)
    held = sys.getrefcount(exporter)
    got = np.from_dlpack(Holder(capsules[1]))
    del array, exporter, capsules
    gc.collect()
    assert alive() is not None, "of the second column somebody has rows"
    assert held >= 3, "each capsule holds it"
    del got
    gc.collect()
    assert alive() is None


def test_capsules_that_nobody_imports_let_go() -> None:
    array = np.zeros(8).view(Memory)
    alive = weakref.ref(array)
    made = capsule(array)
    del array
    assert alive() is not None
    del made
    assert alive() is None


def test_what_cannot_be_exported() -> None:
    fixed = np.zeros(4)
    fixed.flags.writeable = False
    for array, error, text in (
        (fixed, BufferError, "read-only"),
        (np.zeros((4, 4))[:, :2], BufferError, "not contiguous"),
        (np.zeros(4, object), BufferError, "DLPack has no object"),
        (np.zeros(4, "M8[s]"), BufferError, "DLPack has no datetime64"),
        (np.zeros(4, ">f8"), BufferError, "DLPack has no >f8"),
        (np.zeros(()), ValueError, r"of shape \(\)"),
        (np.zeros(5), ValueError, "has not the rows of the first"),
    ):
        with pytest.raises(error, match=text):
            Exporter([np.zeros(4), array])
    assert Exporter([]).capsules(0, 0) == []
    exporter = Exporter([np.zeros(4)])
    for start, stop in ((-1, 2), (3, 2), (0, 5)):
        with pytest.raises(IndexError, match=f"rows {start} to {stop} of 4"):
            exporter.capsules(start, stop)


# ---- in TensorFlow ---------------------------------------------------------------------------------------------------------------


@pytest.mark.tensorflow
@pytest.mark.parametrize("public", [False, True])
def test_tensors_of_capsules(public: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By TensorFlow's inner function, and by ``from_dlpack`` where there is none."""
    tf = pytest.importorskip("tensorflow")
    from tensorflow.python import pywrap_tfe

    from tfos_fast.tf import tensors as batchtensors

    if public:
        monkeypatch.delattr(pywrap_tfe, "TFE_FromDlpackCapsule")
    tensors_of = batchtensors.importer.__wrapped__()
    assert tensors_of.__name__ == ("public" if public else "direct")
    monkeypatch.undo()
    made = set()
    for dtype in [*DTYPES, "bfloat16"]:
        arrays = columns(64, dtype, (16,))
        exporter = Exporter(arrays)
        try:
            tensors = tensors_of(exporter.capsules(16, 32))
        except tf.errors.OpError:
            assert not batchtensors._aliasable(dtype)
            continue
        assert (tensors[0].dtype, tensors[0].shape) == (tf.as_dtype(dtype), (16, 16))
        assert tensors[0].numpy().tobytes() == arrays[0][16:32].tobytes()
        assert tensors[1].numpy().tolist() == list(range(16, 32))
        made.add(dtype)
    assert {"uint8", "int32", "int64", "float32", "float64", "bfloat16"} <= made


@pytest.mark.tensorflow
def test_a_thread_of_tensorflow_may_be_the_last_to_hold_them() -> None:
    tf = pytest.importorskip("tensorflow")
    from tfos_fast.tf.tensors import importer

    array = aligned_empty((64, 16), np.dtype(np.float32)).view(Memory)
    array[...] = 3
    alive = weakref.ref(array)
    (tensor,) = importer()(Exporter([array]).capsules(0, 64))
    dataset = tf.data.Dataset.from_tensors(tensor).repeat(50).map(lambda x: x + 1, num_parallel_calls=2).prefetch(2)
    del tensor, array
    assert sum(float(tf.reduce_sum(x)) for x in dataset) == 50 * 64 * 16 * 4
    del dataset

    def let_go() -> bool:
        gc.collect()
        return alive() is None

    wait_for(let_go)
