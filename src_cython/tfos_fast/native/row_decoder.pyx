"""The way back: values of a slot as Python objects. Everything here copies; nothing keeps the slot alive."""

import pickle

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

cdef object _loads = pickle.loads

cdef enum What:
    _STRING, _BYTES, _BYTEARRAY, _OBJECT

KINDS = {"string": _STRING, "bytes": _BYTES, "bytearray": _BYTEARRAY, "object": _OBJECT}


def heap_values(buffer, Py_ssize_t slot_bytes, Py_ssize_t offset, Py_ssize_t start, Py_ssize_t stop, str kind):
    """Make the values of a string, bytes or object column.

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
    kind : {"string", "bytes", "bytearray", "object"}

    Returns
    -------
    list
        One new object per row.

    Raises
    ------
    ValueError
        When the slot is smaller than it should be or a value points outside of it.
    """
    cdef Py_buffer view
    cdef const char* slot
    cdef const char* entries
    cdef uint32_t entry[2]
    cdef Py_ssize_t i
    cdef What what = KINDS[kind]
    cdef object value
    cdef list values
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        if view.len < slot_bytes or offset < 0 or not 0 <= start <= stop or offset + 8 * stop > slot_bytes:
            raise ValueError(f"rows {start} to {stop} are not in a slot of {min(view.len, slot_bytes)} bytes")
        slot = <const char*>view.buf
        entries = slot + offset + start * sizeof(entry)
        values = PyList_New(stop - start)
        for i in range(stop - start):
            memcpy(entry, entries + i * sizeof(entry), sizeof(entry))  # a copied slot may lie anywhere
            if <Py_ssize_t>entry[0] + <Py_ssize_t>entry[1] > slot_bytes:
                raise ValueError(f"row {start + i} of the slot points outside of it: the slot is damaged")
            if what == _STRING:
                value = PyUnicode_DecodeUTF8(slot + entry[0], entry[1], NULL)
            elif what == _BYTEARRAY:
                value = PyByteArray_FromStringAndSize(slot + entry[0], entry[1])
            else:
                value = PyBytes_FromStringAndSize(slot + entry[0], entry[1])
                if what == _OBJECT:
                    value = _loads(value)
            Py_INCREF(value)  # PyList_SET_ITEM takes a reference
            PyList_SET_ITEM(values, i, value)
        return values
    finally:
        PyBuffer_Release(&view)


def with_tuples(list values, tuple levels):
    """Turn nested lists, in place where they stay lists, into the nested lists and tuples that `levels` names.

    ``values`` holds one nested list per row; ``levels`` names each row's levels from the outside in, True for a tuple.
    """
    cdef Py_ssize_t i
    cdef bint is_tuple = levels[0]
    cdef tuple inner = levels[1:]
    for i in range(len(values)):
        item = values[i]
        if True in inner:
            item = with_tuples(item, inner)
        values[i] = tuple(item) if is_tuple else item
    return values


def make_dicts(tuple names, columns):
    """One dict per row, from the columns' lists."""
    return [dict(zip(names, values)) for values in zip(*columns)]


def make_rows(kind, list names, columns):
    """One pyspark Row per row, from the columns' lists."""
    cdef list rows = []
    new = tuple.__new__
    for values in zip(*columns):
        row = new(kind, values)
        row.__fields__ = names
        rows.append(row)
    return rows
