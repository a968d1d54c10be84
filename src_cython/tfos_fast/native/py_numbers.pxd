"""Python numbers into C arrays: the inner loops of the packer. Nothing here runs Python code or raises.

A loop stops at the first value that its column does not take; the caller then decides (row mode: misfit; column mode:
by numpy).
"""

from cpython.ref cimport PyObject, PyTypeObject
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030B0000
    #include "longintrepr.h"
    #endif
    /* The value of an exact Python int; 0 when it is outside int64. Small ones are read in place, without a call. */
    static CYTHON_INLINE int tfos_int(PyObject *number, int64_t *out) {
        int overflow;
    #if PY_VERSION_HEX >= 0x030C0000
        if (PyUnstable_Long_IsCompact((PyLongObject *)number)) {
            *out = (int64_t)PyUnstable_Long_CompactValue((PyLongObject *)number);
            return 1;
        }
    #else
        Py_ssize_t size = Py_SIZE(number);
        if (size >= -1 && size <= 1) {
            *out = size == 0 ? 0 : (int64_t)size * (int64_t)((PyLongObject *)number)->ob_digit[0];
            return 1;
        }
    #endif
        *out = (int64_t)PyLong_AsLongLongAndOverflow(number, &overflow);
        return overflow == 0;
    }
    /* The items of an exact list or tuple; they stay valid as long as no Python code runs. */
    static CYTHON_INLINE PyObject **tfos_items(PyObject *sequence) {
        return PySequence_Fast_ITEMS(sequence);
    }
    """
    bint tfos_int(PyObject* number, int64_t* out) noexcept nogil
    PyObject** tfos_items(PyObject* sequence) noexcept nogil

cdef extern from "Python.h":
    PyTypeObject PyFloat_Type, PyLong_Type, PyBool_Type, PyList_Type, PyTuple_Type
    PyTypeObject* Py_TYPE(PyObject*) noexcept nogil
    Py_ssize_t Py_SIZE(PyObject*) noexcept nogil
    bint PyFloat_Check(PyObject*) noexcept nogil
    double PyFloat_AS_DOUBLE(PyObject*) noexcept nogil
    PyObject* Py_True


# What a column takes, as bits.
cdef enum Leaf:
    TAKES_FLOAT = 1
    TAKES_INT = 2
    TAKES_BOOL = 4
    TAKES_SUBCLASS = 8  # of float, too: np.float64

# The element types with a loop of their own. All others go through numpy.
cdef enum Code:
    NO_CODE = 0
    BOOL, INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64, FLOAT32, FLOAT64

ctypedef fused number:
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    float
    double


cdef inline bint fill(number* out, PyObject** items, Py_ssize_t count, int takes) noexcept nogil:
    """Write `count` Python numbers; 0 at the first that is of another type or out of range."""
    cdef Py_ssize_t i = 0
    cdef PyTypeObject* kind
    cdef int64_t value = 0
    while i < count:
        kind = Py_TYPE(items[i])
        if kind is &PyFloat_Type:
            if not takes & TAKES_FLOAT:
                return 0
            # Numbers of one list are nearly always of one type: stay in this loop.
            while i < count and Py_TYPE(items[i]) is &PyFloat_Type:
                out[i] = <number>PyFloat_AS_DOUBLE(items[i])
                i += 1
        elif kind is &PyLong_Type:
            if not takes & TAKES_INT:
                return 0
            while i < count and Py_TYPE(items[i]) is &PyLong_Type:
                if not tfos_int(items[i], &value):
                    return 0
                out[i] = <number>value
                if number is not float and number is not double:
                    if <int64_t>out[i] != value or (number is uint64_t and value < 0):
                        return 0
                i += 1
        elif kind is &PyBool_Type:
            if not takes & TAKES_BOOL:
                return 0
            out[i] = <number>(items[i] is Py_True)
            i += 1
        elif takes & TAKES_SUBCLASS and takes & TAKES_FLOAT and PyFloat_Check(items[i]):
            out[i] = <number>PyFloat_AS_DOUBLE(items[i])
            i += 1
        else:
            return 0
    return 1


cdef inline bint fill_bool(uint8_t* out, PyObject** items, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        if Py_TYPE(items[i]) is not &PyBool_Type:
            return 0
        out[i] = items[i] is Py_True
    return 1


cdef inline bint fill_any(int code, void* out, PyObject** items, Py_ssize_t count, int takes) noexcept nogil:
    """The loop for an element type."""
    if code == FLOAT32:
        return fill(<float*>out, items, count, takes)
    if code == FLOAT64:
        return fill(<double*>out, items, count, takes)
    if code == INT64:
        return fill(<int64_t*>out, items, count, takes)
    if code == BOOL:
        return fill_bool(<uint8_t*>out, items, count)
    if code == UINT8:
        return fill(<uint8_t*>out, items, count, takes)
    if code == INT32:
        return fill(<int32_t*>out, items, count, takes)
    if code == INT8:
        return fill(<int8_t*>out, items, count, takes)
    if code == INT16:
        return fill(<int16_t*>out, items, count, takes)
    if code == UINT16:
        return fill(<uint16_t*>out, items, count, takes)
    if code == UINT32:
        return fill(<uint32_t*>out, items, count, takes)
    if code == UINT64:
        return fill(<uint64_t*>out, items, count, takes)
    return 0


cdef fused source:
    uint8_t
    int8_t
    int16_t
    int32_t
    int64_t
    uint16_t
    uint32_t
    uint64_t
    float
    double


cdef inline void cast_floats(source* values, void* out, Py_ssize_t count, bint single) noexcept nogil:
    cdef Py_ssize_t i
    if single:
        for i in range(count):
            (<float*>out)[i] = <float>values[i]
    else:
        for i in range(count):
            (<double*>out)[i] = <double>values[i]


cdef inline bint cast_any(int code, void* values, void* out, Py_ssize_t count, bint single) noexcept nogil:
    """Write an array of any element type as float32 (single) or float64; 0 when its type has no loop here."""
    if code == UINT8 or code == BOOL:
        cast_floats(<uint8_t*>values, out, count, single)
    elif code == FLOAT64:
        cast_floats(<double*>values, out, count, single)
    elif code == FLOAT32:
        cast_floats(<float*>values, out, count, single)
    elif code == INT64:
        cast_floats(<int64_t*>values, out, count, single)
    elif code == INT32:
        cast_floats(<int32_t*>values, out, count, single)
    elif code == INT8:
        cast_floats(<int8_t*>values, out, count, single)
    elif code == INT16:
        cast_floats(<int16_t*>values, out, count, single)
    elif code == UINT16:
        cast_floats(<uint16_t*>values, out, count, single)
    elif code == UINT32:
        cast_floats(<uint32_t*>values, out, count, single)
    elif code == UINT64:
        cast_floats(<uint64_t*>values, out, count, single)
    else:
        return 0
    return 1
