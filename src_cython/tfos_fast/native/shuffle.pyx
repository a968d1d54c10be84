"""The shuffle window's two inner loops: draw rows at random, and gather them from many places into one batch, in one pass."""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy


def pick(
    int32_t[::1] source, int32_t[::1] row, Py_ssize_t count, const double[::1] random,
    int32_t[::1] out_source, int32_t[::1] out_row, int64_t[::1] live,
):
    """Take ``len(random)`` entries at random out of the first ``count``; the last ones fill the holes. Every choice is equally likely.

    Parameters
    ----------
    source, row : int32 arrays
        The window: which source each row lies in, and where. Changed in place.
    count : int
    random : float64 array
        Numbers in [0, 1), one per entry to take.
    out_source, out_row : int32 arrays
        Where the taken entries go; as long as ``random``.
    live : int64 array
        Rows that each source has in the window; changed in place.

    Raises
    ------
    ValueError
        The window has fewer entries, or an array is too short.
    """
    cdef Py_ssize_t n = random.shape[0], i, j
    if n > count or count > source.shape[0] or count > row.shape[0] or out_source.shape[0] != n or out_row.shape[0] != n:
        raise ValueError(f"{n} of {count} rows cannot be taken")
    for i in range(count):
        if source[i] < 0 or source[i] >= live.shape[0]:
            raise ValueError(f"no source {source[i]}")
    with nogil:
        for i in range(n):
            j = <Py_ssize_t> (random[i] * count)
            if j >= count:
                j = count - 1
            out_source[i] = source[j]
            out_row[i] = row[j]
            live[source[j]] -= 1
            count -= 1
            source[j] = source[count]
            row[j] = row[count]


def gather(out, list sources, const int32_t[::1] source, const int32_t[::1] row, Py_ssize_t width):
    """Copy ``width`` bytes of row ``row[i]`` of ``sources[source[i]]`` to the i-th place of ``out``, for all i.

    Parameters
    ----------
    out : writable C-contiguous buffer
        ``len(row) * width`` bytes.
    sources : list
        C-contiguous buffers; None where ``source`` does not point.
    source, row : int32 arrays
    width : int
        Bytes of a row.

    Raises
    ------
    ValueError
        A size does not fit, or an index is outside.
    """
    cdef Py_ssize_t n = row.shape[0], i, m = len(sources)
    cdef list held = []
    cdef Py_ssize_t bad = -1
    cdef Py_buffer target
    cdef Py_buffer* views = <Py_buffer*> calloc(m + 1, sizeof(Py_buffer))
    cdef char* to
    cdef const char* origin
    if views == NULL:
        raise MemoryError()
    try:
        PyObject_GetBuffer(out, &target, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS)
        try:
            if source.shape[0] != n or width < 0 or target.len != n * width:
                raise ValueError(f"{n} rows of {width} bytes do not fill {target.len}")
            for i in range(m):
                if sources[i] is not None:
                    PyObject_GetBuffer(sources[i], &views[i], PyBUF_SIMPLE)
                    held.append(i)
            to = <char*> target.buf
            with nogil:
                for i in range(n):
                    if source[i] < 0 or source[i] >= m or row[i] < 0 or (<Py_ssize_t> row[i] + 1) * width > views[source[i]].len:
                        bad = i
                        break
                    origin = <const char*> views[source[i]].buf + <Py_ssize_t> row[i] * width
                    if width == 8:  # known sizes become one move each
                        memcpy(to, origin, 8)
                    elif width == 4:
                        memcpy(to, origin, 4)
                    elif width == 1:
                        to[0] = origin[0]
                    else:
                        memcpy(to, origin, width)
                    to += width
            if bad >= 0:
                raise ValueError(f"row {row[bad]} of source {source[bad]} is not there")
        finally:
            for i in held:
                PyBuffer_Release(&views[i])
            PyBuffer_Release(&target)
    finally:
        free(views)
