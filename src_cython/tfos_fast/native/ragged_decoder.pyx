"""Ragged columns on their way out of a slot: rows that lie somewhere in its heap become one array and its row splits."""

import numpy as np

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy


def sizes(buffer, Py_ssize_t slot_bytes, Py_ssize_t offset, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t item_bytes):
    """Row splits of a column of one ragged dimension.

    Parameters
    ----------
    buffer : buffer
        The slot.
    slot_bytes : int
        Its size, beyond which no value may reach.
    offset : int
        Where the column's region starts.
    start, stop : int
        Rows.
    item_bytes : int
        Bytes of one item of the ragged dimension.

    Returns
    -------
    ndarray
        int64, of length ``stop - start + 1``, from 0.

    Raises
    ------
    ValueError
        A row lies outside of the slot, or is no whole number of items.
    """
    cdef Py_buffer view
    cdef uint32_t entry[2]
    cdef Py_ssize_t i
    cdef int64_t[::1] splits = np.zeros(max(stop - start, 0) + 1, np.int64)
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        _check(&view, slot_bytes, offset, start, stop)
        for i in range(stop - start):
            memcpy(entry, <char*>view.buf + offset + 8 * (start + i), 8)
            if <Py_ssize_t>entry[0] + <Py_ssize_t>entry[1] > slot_bytes or <Py_ssize_t>entry[1] % item_bytes:
                raise ValueError(f"row {start + i} of a ragged column is no list inside the slot: the slot is damaged")
            splits[i + 1] = splits[i] + <Py_ssize_t>entry[1] // item_bytes
    finally:
        PyBuffer_Release(&view)
    return splits.base


def gather(buffer, Py_ssize_t slot_bytes, Py_ssize_t offset, Py_ssize_t start, Py_ssize_t stop, target):
    """Copy the bytes of the rows into ``target``, one behind the other. It must be as long as they are together.

    Raises
    ------
    ValueError
        It is not, or a row lies outside of the slot.
    """
    cdef Py_buffer view, out
    cdef uint32_t entry[2]
    cdef Py_ssize_t i, at = 0
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(target, &out, PyBUF_WRITABLE)
        try:
            _check(&view, slot_bytes, offset, start, stop)
            for i in range(stop - start):
                memcpy(entry, <char*>view.buf + offset + 8 * (start + i), 8)
                if <Py_ssize_t>entry[0] + <Py_ssize_t>entry[1] > slot_bytes or <Py_ssize_t>entry[1] > out.len - at:
                    raise ValueError(f"row {start + i} of a ragged column is no list inside the slot: the slot is damaged")
                memcpy(<char*>out.buf + at, <char*>view.buf + entry[0], entry[1])
                at += entry[1]
            if at != out.len:
                raise ValueError(f"the rows have {at} bytes, and not {out.len}")
        finally:
            PyBuffer_Release(&out)
    finally:
        PyBuffer_Release(&view)


cdef int _check(Py_buffer* view, Py_ssize_t slot_bytes, Py_ssize_t offset, Py_ssize_t start, Py_ssize_t stop) except -1:
    if view.len < slot_bytes or offset < 0 or not 0 <= start <= stop or offset + 8 * stop > slot_bytes:
        raise ValueError(f"rows {start} to {stop} are not in a slot of {min(view.len, slot_bytes)} bytes")
    return 0
