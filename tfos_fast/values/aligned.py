"""Memory at multiples of 64 bytes, which is what TensorFlow imports: arrays and ragged columns there."""

from __future__ import annotations

import numpy as np

from tfos_fast.values.ragged import Ragged, concatenate

ALIGNMENT = 64

#: What a reader of columns gets for one.
Values = np.ndarray | Ragged


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A new C-contiguous array whose first byte lies at a multiple of 64."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    shift = -raw.ctypes.data % ALIGNMENT
    # A slice would not keep the address of an empty array.
    array: np.ndarray = np.ndarray(shape, dtype, buffer=raw, offset=shift)
    return array


def is_aligned(array: np.ndarray) -> bool:
    """Whether DLPack may have it: C-contiguous and at a multiple of 64 bytes."""
    return array.ctypes.data % ALIGNMENT == 0 and array.flags.c_contiguous


def aligned_copy(array: Values) -> Values:
    """A copy at a multiple of 64 bytes. Object arrays and ragged columns are copied as they are."""
    if isinstance(array, Ragged) or array.dtype.hasobject:
        return array.copy()
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def may_alias(array: Values) -> bool:
    """Whether a batch may hold it as it is: it is aligned, or never becomes a tensor without a copy."""
    return isinstance(array, Ragged) or array.dtype.hasobject or is_aligned(array)


def join(arrays: list[Values], rows: int) -> Values:
    """Rows of several arrays of one column, one behind the other, in new aligned memory."""
    first = arrays[0]
    if isinstance(first, Ragged):
        return concatenate(arrays)  # type: ignore[arg-type]
    out = np.empty((rows,), object) if first.dtype.hasobject else aligned_empty((rows, *first.shape[1:]), first.dtype)
    at = 0
    for array in arrays:
        out[at : at + len(array)] = array
        at += len(array)
    return out
