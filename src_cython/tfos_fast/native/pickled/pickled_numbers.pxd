"""Numbers of a pickle stream into C arrays, as the loops of ``native/py_numbers.pxd`` write Python's. Nothing here runs Python code or raises.

Each gives 0 when the array cannot take the number, of which something may have been written then.
"""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from tfos_fast.native.pickled.binfloat_simd cimport to_float32, to_float64
from tfos_fast.native.pickled.parsed cimport FALSE, FLOATS, INT, Node, TRUE
from tfos_fast.native.py_numbers cimport (
    BOOL, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, TAKES_BOOL, TAKES_FLOAT, TAKES_INT, UINT8, UINT16, UINT32, UINT64, cast_any,
)


cdef inline bint put_int(int code, char* out, Py_ssize_t at, int64_t value) noexcept nogil:
    if code == INT64:
        (<int64_t*>out)[at] = value
    elif code == FLOAT32:
        (<float*>out)[at] = <float>value
    elif code == FLOAT64:
        (<double*>out)[at] = <double>value
    elif code == UINT8:
        (<uint8_t*>out)[at] = <uint8_t>value
        return 0 <= value <= 0xFF
    elif code == INT32:
        (<int32_t*>out)[at] = <int32_t>value
        return -0x80000000 <= value <= 0x7FFFFFFF
    elif code == INT8:
        (<int8_t*>out)[at] = <int8_t>value
        return -0x80 <= value <= 0x7F
    elif code == INT16:
        (<int16_t*>out)[at] = <int16_t>value
        return -0x8000 <= value <= 0x7FFF
    elif code == UINT16:
        (<uint16_t*>out)[at] = <uint16_t>value
        return 0 <= value <= 0xFFFF
    elif code == UINT32:
        (<uint32_t*>out)[at] = <uint32_t>value
        return 0 <= value <= <int64_t>0xFFFFFFFF
    elif code == UINT64:
        (<uint64_t*>out)[at] = <uint64_t>value
        return value >= 0
    else:
        return 0
    return 1

cdef inline bint put_floats(int code, char* out, Py_ssize_t at, const uint8_t* source, Py_ssize_t count, bint past) noexcept nogil:
    """Floats that lie side by side in the stream, the first one's opcode at `source`; 0 when the column is no float32 or float64.

    `past`: written past the caches.
    """
    if code == FLOAT32:
        to_float32(source, <float*>out + at, count, past)
    elif code == FLOAT64:
        to_float64(source, <double*>out + at, count, past)
    else:
        return 0
    return 1

cdef inline bint put_numbers(
    int code, char* out, Py_ssize_t at, const uint8_t* stream, Node* node, Py_ssize_t first, Py_ssize_t count, int takes
) noexcept nogil:
    """One number, or so many of a run of floats that begins in the stream."""
    if node.kind == FLOATS:
        return takes & TAKES_FLOAT and put_floats(code, out, at, stream + node.at + 9 * first, count, False)
    if node.kind == INT:
        return takes & TAKES_INT and code != BOOL and put_int(code, out, at, node.at)
    if node.kind == TRUE or node.kind == FALSE:
        if code == BOOL:
            (<uint8_t*>out)[at] = node.kind == TRUE
            return 1
        return takes & TAKES_BOOL and put_int(code, out, at, node.kind == TRUE)
    return 0

cdef inline Py_ssize_t item_size(int code) noexcept nogil:
    if code == INT64 or code == UINT64 or code == FLOAT64:
        return 8
    if code == INT32 or code == UINT32 or code == FLOAT32:
        return 4
    return 2 if code == INT16 or code == UINT16 else 1

cdef inline bint cast_bytes(int code, const uint8_t* source, Py_ssize_t size, char* out, bint single) noexcept nogil:
    """``cast_any`` for values at any address: by way of aligned pieces."""
    cdef double piece[512]
    cdef Py_ssize_t item = item_size(code), room = sizeof(piece), done = 0, part, count
    while done < size:
        part = min(room, size - done)
        count = part // item
        memcpy(piece, source + done, part)
        if not cast_any(code, piece, out, count, single):
            return 0
        out += count * (4 if single else 8)
        done += part
    return 1
