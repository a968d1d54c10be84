"""One value into one column of a slot.

Numbers are written by the loops of ``py_numbers.pxd``, C-contiguous numpy arrays by memcpy, text as its UTF-8 bytes,
everything else by numpy (column mode) or pickle.
"""

import decimal
import pickle

import numpy as np

from tfos_fast.values import dtypes as _convert, nested as _nested, special as _special
from tfos_fast.errors import SchemaMismatch

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Check, PyByteArray_CheckExact, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_Check, PyUnicode_CheckExact
from libc.string cimport memcpy, strcmp

from tfos_fast.native.py_numbers cimport (
    BOOL, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, NO_CODE, Py_SIZE, Py_TYPE, PyList_Type, PyTuple_Type,
    TAKES_BOOL, TAKES_FLOAT, TAKES_INT, TAKES_SUBCLASS, UINT8, UINT16, UINT32, UINT64, cast_any, fill_any,
    tfos_items,
)

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef dict CODES = {
    "bool": BOOL, "int8": INT8, "int16": INT16, "int32": INT32, "int64": INT64, "uint8": UINT8, "uint16": UINT16,
    "uint32": UINT32, "uint64": UINT64, "float32": FLOAT32, "float64": FLOAT64,
}
# What the buffer protocol may call an element type: C has two names for 64 bits.
cdef dict FORMATS = {"int64": (b"l", b"q"), "uint64": (b"L", b"Q")}
cdef dict TAKES = {"float": TAKES_FLOAT, "int": TAKES_INT, "bool": TAKES_BOOL}

cdef type _ndarray = np.ndarray
cdef object _as_tagged = _convert.as_tagged
cdef object _cast_values = _convert.cast_values
cdef object _deepened = _convert.deepened
cdef object _encode = _nested.encode
cdef object _dumps = pickle.dumps
cdef object _is_missing = _special.is_missing
cdef object _UNFIT = object()


def dumps(value):
    """Pickle one value with protocol 5; what pickle refuses, with cloudpickle when that is installed.

    Raises
    ------
    SchemaMismatch
        Neither can. It says what pickle said.
    """
    try:
        return _dumps(value, 5)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        first = error
    try:
        import cloudpickle

        return cloudpickle.dumps(value, 5)
    except (ImportError, pickle.PicklingError, TypeError, AttributeError):
        kind = type(value).__qualname__
        raise SchemaMismatch(
            f"a value of type {kind} cannot be pickled, and so not be sent to another process ({type(first).__name__}: {first}); "
            "feed what it holds, as numbers, text or lists"
        ) from None


def as_object(value, column):
    """What a column of objects holds for a value whose column would be one of its `dtype` and `shape`, if there were no None.

    Another object when that column would not take the value.
    """
    if value is None:
        return None
    kind = type(value)
    if column.unit == "number" and not column.shape:
        if (kind is float and column.dtype == "float64") or (kind is str and column.dtype == "string"):
            return value
        if kind is bool and column.dtype == "bool":
            return value
    if _is_missing(value):
        return None
    try:
        form = _nested.measure(value)
    except SchemaMismatch:
        return _UNFIT
    own = _nested.with_unit(column.dtype, column.unit if column.unit != "number" else ""), column.shape
    if form is None or _nested.meet(form, own) != own:
        return _UNFIT
    if column.dtype in _nested.TEXTS and not column.shape:
        return str(value) if column.dtype == "string" else bytes(value)
    if column.unit == "number" and form[0] != column.dtype and column.dtype in _convert.DTYPES:
        return _numbers(value, column.dtype)  # as in a column without None
    return _numbers(value, "") if column.unit != "number" or _has_special(value) else value


def with_type(value, column):
    """As `as_object`; a value that such a column would not take as it is."""
    found = as_object(value, column)
    return value if found is _UNFIT else found


cdef bint _has_special(object value) except -1:
    """Whether some value, inside lists, too, is no number itself."""
    if isinstance(value, (list, tuple)):
        for item in value:
            if _has_special(item):
                return True
        return False
    return isinstance(value, decimal.Decimal) or _special.is_linalg(value)


cdef object _numbers(object value, str dtype):
    """Numbers as they are, or of a type, and what has a number's meaning as numbers, inside lists, too."""
    if not dtype and type(value) in _convert.LEAVES:
        return value
    tagged = _as_tagged(value)
    if tagged is not None:
        array = tagged[0].astype(_convert.dtype_of(dtype)) if dtype else tagged[0]
        return array.tolist() if array.ndim == 0 else array
    return [_numbers(item, dtype) for item in value]


cdef int prepare(ColumnState* state, column, bint exact, bint cast, list keep) except -1:
    """Fill in the state for a column of a schema; `keep` holds what it borrows."""
    cdef int i
    cdef Py_ssize_t step
    keep.append(column)
    state.definition = <PyObject*>column
    state.exact = exact
    state.cast = cast
    state.row_bytes = column.row_bytes
    if column.kind == "string":
        state.kind = STRING
    elif column.kind == "bytes":
        state.kind = BYTEARRAY if exact and column.python == "bytearray" else BYTES
    elif column.kind == "object":
        state.kind = OBJECT
        state.counted = column.unit not in ("", "mixed", "beyond") and not exact
    elif column.kind == "null":
        state.kind = NULLS
    elif column.kind == "unused":
        state.kind = UNUSED
    elif column.kind == "ragged":
        state.kind = RAGGED
    if column.nulls == "fill" or column.nulls == "mask" or column.kind == "null":
        state.nulls = True
        fill = _convert.fill_bytes(column.kind, column.dtype, column.shape, column.fill)
        keep.append(fill)
        state.fill = PyBytes_AS_STRING(fill)
        state.fill_bytes = len(fill)
    if column.kind == "ragged" and column.dtype in _convert.DTYPES and column.shape.count(-1) == 1:
        state.inner = 1
        for length in column.shape[1:]:
            state.inner *= length
        state.itemsize = _convert.dtype_of(column.dtype).itemsize
    elif column.kind != "fixed":
        return 0
    dtype = _convert.dtype_of(column.dtype)
    if column.dtype != "bfloat16":  # the buffer protocol has no name for it: numpy does it
        formats = FORMATS.get(column.dtype) or (memoryview(np.empty(0, dtype)).format.encode(),)
        keep.append(formats)
        for i in range(len(formats)):
            state.formats[i] = PyBytes_AS_STRING(formats[i])
    state.code = CODES.get(column.dtype, NO_CODE)
    state.dims = len(column.shape)
    step = dtype.itemsize
    # An array may have more dimensions than the loops know; numpy packs those.
    for i in range(state.dims - 1, -1, -1) if state.dims <= MAX_DIMS else ():
        state.shape[i] = column.shape[i]
        state.steps[i] = step
        step *= state.shape[i]
    if column.dtype != "bfloat16":
        keep.append(dtype.type)
        state.scalar = <PyTypeObject*>dtype.type
    if not exact:
        if column.kind == "fixed":
            state.kind = ANY
            state.raw = column.python == "bytes"
        state.takes = TAKES_SUBCLASS
        for leaf, name in _convert.LEAVES.items():
            if _convert.can_cast(name, column.dtype, cast=cast):
                state.takes |= <int>TAKES[leaf.__name__]
        if state.code == FLOAT32 or state.code == FLOAT64:
            for name, code in CODES.items():
                if _convert.can_cast(name, column.dtype, cast=cast):
                    state.casts |= 1 << <int>code
        if column.unit not in ("", "?"):
            # Plain numbers are none of its values: all go through `put_by_numpy` and `_nested.encode`, which look at the unit.
            state.counted = True
            state.code = NO_CODE
            state.takes = state.casts = 0
            state.inner = 0
            state.scalar = NULL
            state.formats[0] = NULL
    elif column.python == "ndarray":
        state.kind = ARRAY
    elif column.python == "npscalar":
        state.kind = SCALAR
    else:
        levels = column.python.split("/")
        leaf = levels.pop()
        # A column that came from Arrow may be narrower than Python's own numbers: then it takes none of them.
        if column.dtype != {"float": "float64", "int": "int64", "bool": "bool"}[leaf] or state.dims > MAX_DIMS:
            state.kind = NEVER
            return 0
        state.kind = NESTED if levels else NUMBER
        state.takes = TAKES[leaf]
        for i in range(len(levels)):
            state.levels[i] = &PyList_Type if levels[i] == "list" else &PyTuple_Type
    return 0


cdef int put(ColumnState* column, object value, Slot* slot, Py_ssize_t row) except -1:
    """Write one value; anything but OK leaves the slot's heap as it was."""
    cdef int outcome
    if column.nulls and (value is None or (column.kind == OBJECT and not column.exact and _is_missing(value))):
        return put_null(column, slot, row)
    outcome = put_value(column, value, slot, row)
    if outcome == UNFIT and not column.exact and column.nulls and _is_missing(value):
        return put_null(column, slot, row)
    if column.mask is not NULL:
        column.mask[row] = 1
    return outcome


cdef int put_null(ColumnState* column, Slot* slot, Py_ssize_t row) noexcept:
    """Write what stands for None, in a column that takes it."""
    cdef char* out = column.region + row * column.row_bytes
    if column.mask is not NULL:
        column.mask[row] = 0
    if column.kind >= STRING:
        return put_bytes(<uint32_t*>out, column.fill, column.fill_bytes, slot)
    memcpy(out, column.fill, column.row_bytes)
    return OK


cdef int put_value(ColumnState* column, object value, Slot* slot, Py_ssize_t row) except -1:
    cdef char* out = column.region + row * column.row_bytes
    cdef PyObject* pointer = <PyObject*>value
    cdef Kind kind = column.kind
    cdef const char* text
    cdef Py_ssize_t size = 0
    if kind == ANY:
        if column.raw:
            return put_raw(column, value, out)
        if type(value) is _ndarray:
            if put_array(column, value, out):
                return OK
        elif column.dims == 0:
            if fill_any(column.code, out, &pointer, 1, column.takes) or put_scalar(column, value, out):
                return OK
        elif column.dims <= MAX_DIMS and fill_nested(column, pointer, 0, out):
            return OK
        return put_by_numpy(column, value, out)
    if kind == NUMBER:
        return OK if fill_any(column.code, out, &pointer, 1, column.takes) else UNFIT
    if kind == NESTED:
        return OK if fill_nested(column, pointer, 0, out) else UNFIT
    if kind == ARRAY:
        if type(value) is not _ndarray:
            return UNFIT
        return OK if put_array(column, value, out) else put_by_numpy(column, value, out)
    if kind == SCALAR:
        return OK if put_scalar(column, value, out) else UNFIT
    if kind == STRING:
        if not (PyUnicode_CheckExact(value) if column.exact else PyUnicode_Check(value)):
            return UNFIT
        try:
            text = PyUnicode_AsUTF8AndSize(value, &size)
        except UnicodeEncodeError:  # a lone surrogate
            return UNFIT
        return put_bytes(<uint32_t*>out, text, size, slot)
    if kind == BYTES:
        if PyBytes_CheckExact(value) if column.exact else PyBytes_Check(value):
            return put_bytes(<uint32_t*>out, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), slot)
        if column.exact or not PyByteArray_Check(value):
            return UNFIT
        return put_bytes(<uint32_t*>out, PyByteArray_AS_STRING(value), PyByteArray_GET_SIZE(value), slot)
    if kind == BYTEARRAY:
        if not PyByteArray_CheckExact(value):
            return UNFIT
        return put_bytes(<uint32_t*>out, PyByteArray_AS_STRING(value), PyByteArray_GET_SIZE(value), slot)
    if kind == OBJECT:
        return put_object(column, value, slot, <uint32_t*>out)
    if kind == RAGGED:
        return put_ragged(column, value, slot, <uint32_t*>out)
    return OK if kind == UNUSED else UNFIT


cdef int put_object(ColumnState* column, object value, Slot* slot, uint32_t* entry) except -1:
    """Pickle a value. A function of its own: one that changes an argument counts references to it in all of its branches."""
    kept = as_object(value, <object>column.definition) if column.counted else value
    if kept is _UNFIT:
        return UNFIT
    data = dumps(kept)
    return put_bytes(entry, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), slot)


cdef int put_raw(ColumnState* column, object value, char* out) noexcept:
    """Copy a byte string that is the memory of one row's values."""
    if PyBytes_Check(value) and PyBytes_GET_SIZE(value) == column.row_bytes:
        memcpy(out, PyBytes_AS_STRING(value), column.row_bytes)
    elif PyByteArray_Check(value) and PyByteArray_GET_SIZE(value) == column.row_bytes:
        memcpy(out, PyByteArray_AS_STRING(value), column.row_bytes)
    else:
        return UNFIT
    return OK


cdef int put_ragged(ColumnState* column, object value, Slot* slot, uint32_t* entry) except -1:
    """Lists of numbers of one level are written in place, all else goes through ``_nested.encode``."""
    cdef PyObject* pointer = <PyObject*>value
    cdef PyTypeObject* kind = Py_TYPE(pointer)
    cdef Py_ssize_t top = (slot.top + 7) & ~<Py_ssize_t>7  # numbers are written where they are aligned
    cdef Py_ssize_t count
    if column.inner == 1 and column.dims == 1 and (kind is &PyList_Type or kind is &PyTuple_Type):
        count = Py_SIZE(pointer)
        if count * column.itemsize > slot.size - top:
            return NO_ROOM
        if fill_any(column.code, slot.start + top, tfos_items(pointer), count, column.takes):
            entry[0] = <uint32_t>top
            entry[1] = <uint32_t>(count * column.itemsize)
            slot.top = top + count * column.itemsize
            return OK
    definition = <object>column.definition
    try:
        data = _encode(value, definition.dtype, definition.shape, cast=column.cast, unit=definition.unit)
    except SchemaMismatch:  # beyond the range: the schema is asked for, and says so
        return UNFIT
    if data is None:
        return UNFIT
    return put_bytes(entry, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), slot)


cdef int put_bytes(uint32_t* entry, const char* data, Py_ssize_t size, Slot* slot) noexcept:
    if size > slot.size - slot.top:
        return NO_ROOM
    memcpy(slot.start + slot.top, data, size)
    entry[0] = <uint32_t>slot.top
    entry[1] = <uint32_t>size
    slot.top += size
    return OK


cdef bint fill_nested(ColumnState* column, PyObject* value, int level, char* out) noexcept:
    """Write nested exact lists and tuples of the column's shape; 0 when they are anything else."""
    cdef PyTypeObject* kind = Py_TYPE(value)
    cdef PyObject** items
    cdef Py_ssize_t i
    if kind is not &PyList_Type and kind is not &PyTuple_Type:
        return 0
    if column.levels[level] is not NULL and column.levels[level] is not kind:
        return 0
    if Py_SIZE(value) != column.shape[level]:
        return 0
    items = tfos_items(value)
    if level == column.dims - 1:
        return fill_any(column.code, out, items, column.shape[level], column.takes)
    for i in range(column.shape[level]):
        if not fill_nested(column, items[i], level + 1, out + i * column.steps[level]):
            return 0
    return 1


cdef bint put_array(ColumnState* column, object array, char* out) except -1:
    """Write a C-contiguous array of just this shape: copy it, or cast it to floats; 0 when that cannot be done here."""
    cdef Py_buffer view
    cdef int i, code
    cdef bint same
    try:
        PyObject_GetBuffer(array, &view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS)
    except (BufferError, ValueError):  # not contiguous, or an element type without a format
        return 0
    same = column.dims <= MAX_DIMS and view.ndim == column.dims
    if same:
        for i in range(column.dims):
            same = same and view.shape[i] == column.shape[i]
    if same:
        if is_format(column, view.format):
            memcpy(out, view.buf, column.row_bytes)
        else:
            code = code_of(view.format) if column.casts else NO_CODE
            # numpy's own arrays are aligned; one that someone laid over odd bytes is left to numpy.
            same = (
                column.casts >> code & 1
                and <size_t>view.buf % <size_t>view.itemsize == 0
                and cast_any(code, view.buf, out, view.len // view.itemsize, column.code == FLOAT32)
            )
    PyBuffer_Release(&view)
    return same


cdef int code_of(const char* format) noexcept:
    """The element type that the buffer protocol calls so; NO_CODE when it is none of ours or not native."""
    cdef char name = format[0]
    if format[1] != 0:
        return NO_CODE
    if name == b"B":
        return UINT8
    if name == b"d":
        return FLOAT64
    if name == b"f":
        return FLOAT32
    if name == b"l" or name == b"q":
        return INT64
    if name == b"i":
        return INT32
    if name == b"?":
        return BOOL
    if name == b"b":
        return INT8
    if name == b"h":
        return INT16
    if name == b"H":
        return UINT16
    if name == b"I":
        return UINT32
    if name == b"L" or name == b"Q":
        return UINT64
    return NO_CODE


cdef bint put_scalar(ColumnState* column, object value, char* out) except -1:
    """Copy a numpy scalar of just this type; 0 when it is another."""
    cdef Py_buffer view
    if Py_TYPE(<PyObject*>value) is not column.scalar:
        return 0
    PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
    if view.len == column.row_bytes:
        memcpy(out, view.buf, view.len)
    PyBuffer_Release(&view)
    return 1


cdef bint is_format(ColumnState* column, const char* format) noexcept:
    cdef int i
    for i in range(MAX_FORMATS):
        if column.formats[i] is NULL:
            return 0
        if strcmp(column.formats[i], format) == 0:
            return 1
    return 0


cdef int put_by_numpy(ColumnState* column, object value, char* out) except -1:
    """What the loops do not take, through the functions that also infer the schema: they have the last word."""
    cdef Py_buffer view
    definition = <object>column.definition
    if column.exact and (not value.dtype.isnative or value.dtype.name != definition.dtype):
        return UNFIT
    try:
        tagged = _as_tagged(value)
    except SchemaMismatch:  # beyond the range: the schema is asked for, and says so
        return UNFIT
    if tagged is None:
        return UNFIT
    array, unit = tagged
    if unit != definition.unit and unit != definition.unit.strip("?") and array.size:
        return UNFIT
    if array.shape != definition.shape:
        array = _deepened(array, definition.shape)
        if array is None or column.exact:
            return UNFIT
    array = _cast_values(array, definition.dtype, cast=column.cast)
    if array is None:
        return UNFIT
    if array.dtype.kind == "V":
        array = array.view(np.uint16)  # bfloat16
    PyObject_GetBuffer(array, &view, PyBUF_C_CONTIGUOUS)
    if view.len == column.row_bytes:
        memcpy(out, view.buf, column.row_bytes)
    PyBuffer_Release(&view)
    return OK
