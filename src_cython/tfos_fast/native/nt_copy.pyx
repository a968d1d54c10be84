"""Large copies into a slot, past the caches (``past.h``).

A slot is read by another core, and a large one has left this core's cache long before it is written again: stores that bypass the
caches spare reading the old contents, and leave the caches to whoever needs them. 4 MB blocks into a ring that another process reads:
9 to 12 GB/s instead of 6 to 9 by memcpy, on two cores of an AMD EPYC.
"""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memcpy

cdef extern from "past.h" nogil:
    void tfos_past(char* to, const char* source, size_t size)
    void tfos_past_done()

cdef Py_ssize_t LARGE = 1 << 18  # bytes; what is smaller may still be in a cache when the reader comes


def copy(target, source):
    """Copy the bytes of one C-contiguous buffer to another of the same size; they must not overlap.

    Raises
    ------
    ValueError
        The sizes differ.
    BufferError
        A buffer is not contiguous, or the target is read-only.
    """
    cdef Py_buffer to, origin
    PyObject_GetBuffer(target, &to, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS)
    try:
        PyObject_GetBuffer(source, &origin, PyBUF_C_CONTIGUOUS)
        try:
            if to.len != origin.len:
                raise ValueError(f"{origin.len} bytes do not fill {to.len}")
            with nogil:
                if to.len >= LARGE:
                    tfos_past(<char*>to.buf, <const char*>origin.buf, to.len)
                    tfos_past_done()
                else:
                    memcpy(<char*>to.buf, <const char*>origin.buf, to.len)
        finally:
            PyBuffer_Release(&origin)
    finally:
        PyBuffer_Release(&to)
