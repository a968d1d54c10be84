"""The packer: rows from any iterator into a slot of shared memory.

One copy, from the Python object to the slot. Numbers are written by the loops of ``_values.pxd``, C-contiguous numpy arrays by
memcpy, text as its UTF-8 bytes, everything else by numpy (column mode) or pickle.

A row counts only when all its columns are written: ``rows`` and ``heap_used`` move after the last one, so a row that does not fit
leaves nothing behind but bytes that the next row overwrites.
"""

import pickle
import sys

import numpy as np

from tfos_fast.channel import schema as _schema
from tfos_fast.channel.layout import column_bytes
from tfos_fast.errors import RowTooLarge

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_CheckExact, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.iterator cimport PyIter_Check
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.ref cimport PyTypeObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_Check, PyUnicode_CheckExact
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, strcmp
from posix.time cimport clock_gettime, timespec

from tfos_fast._values cimport (
    BOOL, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, NO_CODE, Py_SIZE, Py_TYPE, PyList_Type, PyTuple_Type, TAKES_BOOL,
    TAKES_FLOAT, TAKES_INT, UINT8, UINT16, UINT32, UINT64, fill_any, tfos_items,
)

cdef extern from "Python.h":
    object PyIter_Next(object iterator)  # NULL without an error at the end: called through the pointer form below
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef extern from "Python.h":
    PyObject* _next "PyIter_Next"(PyObject* iterator) except? NULL

cdef extern from "<time.h>":
    int CLOCK_MONOTONIC_COARSE

END = 0
FULL = 1
MISFIT = 2
TICK = 3

cdef enum Outcome:
    _OK = 0
    _FULL = 1
    _MISFIT = 2

cdef enum Kind:
    _NEVER, _NUMBER, _NESTED, _ARRAY, _SCALAR, _ANY, _STRING, _BYTES, _BYTEARRAY, _OBJECT

cdef enum:
    MAX_DIMS = 16
    MAX_FORMATS = 3

CODES = {
    "bool": BOOL, "int8": INT8, "int16": INT16, "int32": INT32, "int64": INT64, "uint8": UINT8, "uint16": UINT16,
    "uint32": UINT32, "uint64": UINT64, "float32": FLOAT32, "float64": FLOAT64,
}
# What the buffer protocol may call an element type; C has two names for 64 bits.
FORMATS = {"int64": "lq", "uint64": "LQ"}

cdef type _ndarray = np.ndarray
cdef object _as_array = _schema.as_array
cdef object _cast_array = _schema.cast_array
cdef object _is_spark_row = _schema.is_spark_row
cdef object _row_names = _schema.row_names
cdef object _dumps = pickle.dumps


cdef struct ColumnState:
    Kind kind
    int code                                # of _values.Code; NO_CODE: numpy does it
    int takes                               # of _values.Leaf
    int dims
    Py_ssize_t shape[MAX_DIMS]
    Py_ssize_t steps[MAX_DIMS]              # bytes from one item of a dimension to the next
    PyTypeObject* levels[MAX_DIMS]          # row mode: list or tuple, from the outside in
    PyTypeObject* scalar                    # row mode: the numpy scalar's type (kept alive by the packer)
    const char* formats[MAX_FORMATS]        # names of the element type in the buffer protocol (kept alive by the packer)
    Py_ssize_t row_bytes                    # bytes of a row in the region
    char* region                            # while bound


cdef double _now() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC_COARSE, &time)
    return <double>time.tv_sec + 1e-9 * <double>time.tv_nsec


def dumps(value):
    """Pickle one value (protocol 5); with cloudpickle what pickle refuses, when it is there."""
    try:
        return _dumps(value, 5)
    except (pickle.PicklingError, TypeError, AttributeError):
        try:
            import cloudpickle
        except ImportError:
            cloudpickle = None
        if cloudpickle is None:
            raise
        try:
            return cloudpickle.dumps(value, 5)
        except Exception:  # the first error says what is wrong with the value
            pass
        raise


cdef class RowPacker:
    """Packs rows of one schema into slots.

    Parameters
    ----------
    schema : tfos_fast.channel.schema.Schema
    exact : bool
        Row mode: take only values that come back equal and of the same type. False: column mode.
    cast : bool
        Column mode with declared types: also narrow, as :func:`tfos_fast.channel.schema.can_cast` says.

    Attributes
    ----------
    rows : int
        Rows in the bound slot.
    heap_used : int
        Bytes used in its heap.
    has_pending, pending : bool, object
        The row that did not fit; the next `pack_from` begins with it.
    misfit : int
        After MISFIT the column that did not take its value, -1 when the row's structure is another.
    """

    cdef ColumnState* columns
    cdef Py_ssize_t count
    cdef readonly object schema
    cdef readonly bint exact
    cdef readonly bint cast
    cdef readonly object layout
    cdef readonly Py_ssize_t rows
    cdef readonly Py_ssize_t misfit
    cdef readonly bint has_pending
    cdef object _pending
    cdef object _structure
    cdef object _names
    cdef object _fields                    # the __fields__ object that was last found to be right
    cdef list _keep
    cdef Py_buffer _view
    cdef bint _bound
    cdef bint _busy
    cdef Py_ssize_t _capacity
    cdef Py_ssize_t _heap_top              # from the slot's start
    cdef Py_ssize_t _slot_bytes

    def __cinit__(self, schema, *, exact, cast=False):
        self.schema = schema
        self.exact = exact
        self.cast = cast
        self.misfit = -1
        self._structure = schema.structure
        self._names = schema.names
        self._keep = []
        self.count = len(schema.columns)
        self.columns = <ColumnState*>PyMem_Calloc(max(self.count, 1), sizeof(ColumnState))
        if self.columns is NULL:
            raise MemoryError()
        for i, column in enumerate(schema.columns):
            self._prepare(&self.columns[i], column)

    def __dealloc__(self):
        if self._bound:
            PyBuffer_Release(&self._view)
        PyMem_Free(self.columns)

    cdef int _prepare(self, ColumnState* state, column) except -1:
        cdef int i
        state.row_bytes = column_bytes(column)
        if column.kind != "fixed":
            if column.kind == "bytes" and column.python == "bytearray":
                state.kind = _BYTEARRAY
            else:
                state.kind = {"string": _STRING, "bytes": _BYTES, "object": _OBJECT}[column.kind]
            return 0
        dtype = np.dtype(column.dtype)
        state.dims = len(column.shape)
        if state.dims > MAX_DIMS and self.exact and column.python != "ndarray":
            raise ValueError(f"column {column.name!r} has {state.dims} dimensions, at most {MAX_DIMS} are possible")
        if state.dims <= MAX_DIMS:
            step = dtype.itemsize
            for i in range(state.dims - 1, -1, -1):
                state.shape[i] = column.shape[i]
                state.steps[i] = step
                step *= column.shape[i]
        state.code = CODES.get(column.dtype, NO_CODE)
        formats = [c.encode() for c in FORMATS.get(column.dtype, "")] or [memoryview(np.empty(0, dtype)).format.encode()]
        self._keep.append(formats)
        for i in range(len(formats)):
            state.formats[i] = PyBytes_AS_STRING(formats[i])
        if not self.exact:
            state.kind = _ANY
            for leaf, name in _schema.LEAVES.items():
                if _schema.can_cast(name, column.dtype, cast=self.cast):
                    state.takes |= TAKES_FLOAT if leaf is float else TAKES_INT if leaf is int else TAKES_BOOL
        elif column.python == "ndarray":
            state.kind = _ARRAY
        elif column.python == "npscalar":
            state.kind = _SCALAR
            self._keep.append(dtype.type)
            state.scalar = <PyTypeObject*>dtype.type
        else:
            *levels, leaf = column.python.split("/")
            # A column that came from Arrow may be narrower than Python's own numbers: it takes none.
            if {"float": "float64", "int": "int64", "bool": "bool"}[leaf] != column.dtype:
                state.kind = _NEVER
                return 0
            state.kind = _NESTED if levels else _NUMBER
            state.takes = TAKES_FLOAT if leaf == "float" else TAKES_INT if leaf == "int" else TAKES_BOOL
            for i, level in enumerate(levels):
                state.levels[i] = &PyList_Type if level == "list" else &PyTuple_Type
        return 0

    def bind(self, buffer, layout, Py_ssize_t rows=0):
        """Pack into this slot from now on. Memory is not copied; the buffer is held until `unbind`.

        Parameters
        ----------
        buffer : writable buffer
            At least ``layout.slot_bytes`` bytes, its address a multiple of 8.
        layout : tfos_fast.channel.layout.Layout
            For this packer's schema.
        rows : int
            Rows that are in the slot already.

        Raises
        ------
        ValueError
            When layout or buffer do not suit, or a slot is bound.
        """
        cdef Py_ssize_t i, top, end
        cdef uint32_t* entry
        self._check_idle()
        if self._bound:
            raise ValueError("a slot is bound already; unbind it first")
        if layout.schema is not self.schema and layout.schema != self.schema:
            raise ValueError("the layout is for another schema")
        if not 0 <= rows <= layout.capacity:
            raise ValueError(f"rows must be between 0 and {layout.capacity}, is {rows}")
        PyObject_GetBuffer(buffer, &self._view, PyBUF_WRITABLE)
        try:
            if self._view.len < layout.slot_bytes:
                raise ValueError(f"the buffer has {self._view.len} bytes, the layout needs {layout.slot_bytes}")
            if <size_t>self._view.buf % 8:
                raise ValueError("the buffer's address must be a multiple of 8")
        except ValueError:
            PyBuffer_Release(&self._view)
            raise
        self._bound = True
        self.layout = layout
        self.rows = rows
        self._capacity = layout.capacity
        self._slot_bytes = layout.slot_bytes
        top = layout.heap
        for i in range(self.count):
            self.columns[i].region = <char*>self._view.buf + <Py_ssize_t>layout.offsets[i]
            if rows and self.columns[i].kind >= _STRING:
                # The heap grows with the rows: its end is the end of the last row's values.
                entry = <uint32_t*>(self.columns[i].region + (rows - 1) * self.columns[i].row_bytes)
                end = <Py_ssize_t>entry[0] + <Py_ssize_t>entry[1]
                top = max(top, end)
        self._heap_top = top

    def unbind(self):
        """Let go of the slot; `rows` and `heap_used` keep their values until the next `bind`."""
        self._check_idle()
        if self._bound:
            self._bound = False
            PyBuffer_Release(&self._view)

    cdef int _check_idle(self) except -1:
        if self._busy:
            raise RuntimeError("the packer is packing: rows must not use the packer that packs them")
        return 0

    @property
    def heap_used(self):
        return 0 if self.layout is None else self._heap_top - <Py_ssize_t>self.layout.heap

    @property
    def pending(self):
        return self._pending

    def set_pending(self, row):
        """Let the next `pack_from` begin with this row."""
        self._check_idle()
        self._pending = row
        self.has_pending = True

    def take_pending(self):
        """Give the pending row away (None when there is none)."""
        self._check_idle()
        row = self._pending
        self._pending = None
        self.has_pending = False
        return row

    def pack_from(self, iterator, double tick_seconds):
        """Pull rows and pack them until something happens.

        Parameters
        ----------
        iterator : iterator
            Rows; the pending row comes first.
        tick_seconds : float
            Return after this time (a row that the iterator is still making is waited for).

        Returns
        -------
        int
            END: the iterator has ended. FULL: the slot has no room; the pending row, if there is one, did not fit. MISFIT: the
            pending row does not fit the schema. TICK: the time has passed.

        Raises
        ------
        RowTooLarge
            A row does not fit an empty slot; it stays pending.
        Exception
            What the iterator or a value's own code raised; the row is dropped, rows before it stay.
        """
        cdef int outcome
        self._check_idle()
        if not self._bound:
            raise ValueError("no slot is bound")
        if not PyIter_Check(iterator):
            raise TypeError(f"an iterator is needed, not {type(iterator).__name__}")
        self._busy = True
        try:
            outcome = self._pack_from(iterator, _now() + tick_seconds)
        finally:
            self._busy = False
        if outcome == FULL and self.rows == 0:
            self._refuse()
        return outcome

    cdef int _pack_from(self, object iterator, double until) except -1:
        cdef PyObject* item
        cdef object row
        cdef int outcome
        while True:
            if self.rows >= self._capacity and self._capacity:
                return FULL
            if self.has_pending:
                row = self._pending
                self._pending = None
                self.has_pending = False
            else:
                item = _next(<PyObject*>iterator)
                if item is NULL:
                    return END
                row = <object>item
                _release(item)
            outcome = self._put_row(row)
            if outcome != _OK:
                self._pending = row
                self.has_pending = True
                return outcome
            if _now() >= until:
                return FULL if self.rows >= self._capacity else TICK

    cdef int _put_row(self, object row) except -1:
        cdef Py_ssize_t i, top = self._heap_top
        cdef int outcome
        cdef object values
        if self._structure == "bare":
            if self.rows >= self._capacity:
                return _FULL
            outcome = self._put(&self.columns[0], row, &top)
            self.misfit = 0
            if outcome != _OK:
                return outcome
        else:
            values = self._open(row)
            if values is None:
                self.misfit = -1
                return _MISFIT
            if self.rows >= self._capacity:
                return _FULL
            for i in range(self.count):
                outcome = self._put(&self.columns[i], <object>PyTuple_GET_ITEM(values, i), &top)
                if outcome != _OK:
                    self.misfit = i
                    return outcome
        self._heap_top = top
        self.rows += 1
        return _OK

    cdef tuple _open(self, object row):
        """The row's values, as many as there are columns; None when its structure is another."""
        cdef tuple values
        cdef object fields
        cdef type kind = type(row)
        cdef str structure = self._structure
        if structure == "tuple":
            if kind is tuple:
                values = <tuple>row
            elif self.exact or not isinstance(row, (tuple, list)) or _row_names(row) is not None:
                return None
            else:
                values = tuple(row)
        elif structure == "list":
            if kind is not list:
                return None
            values = tuple(row)
        elif structure == "dict":
            return self._open_dict(row)
        else:
            if not isinstance(row, tuple) or kind is tuple:
                return None
            fields = getattr(row, "__fields__", None)
            if fields is None or fields is not self._fields:
                if (self.exact and not _is_spark_row(row)) or _row_names(row) != self._names:
                    return None
                self._fields = fields
            values = row if kind is tuple else tuple(row)
        return values if PyTuple_GET_SIZE(values) == self.count else None

    cdef tuple _open_dict(self, object row):
        if type(row) is not dict and (self.exact or not isinstance(row, dict)):
            return None
        if len(row) != self.count:
            return None
        names = tuple(row)
        if names == self._names:
            # Keys that only equal a string (a subclass of str) would not come back as they are.
            if self.exact:
                for name in names:
                    if type(name) is not str:
                        return None
            return tuple(row.values())
        if self.exact:  # also another order of the keys is another structure: it would not come back
            return None
        try:
            return tuple([row[name] for name in self._names])
        except KeyError:
            return None

    cdef int _put(self, ColumnState* column, object value, Py_ssize_t* top) except -1:
        cdef char* out = column.region + self.rows * column.row_bytes
        cdef PyObject* pointer = <PyObject*>value
        cdef Kind kind = column.kind
        cdef const char* text
        cdef Py_ssize_t size = 0
        if kind == _ANY:
            if type(value) is _ndarray:
                if self._put_array(column, value, out):
                    return _OK
            elif column.dims == 0:
                if fill_any(column.code, out, &pointer, 1, column.takes):
                    return _OK
            elif column.dims <= MAX_DIMS and fill_nested(column, pointer, 0, out):
                return _OK
            return self._put_by_numpy(column, value, out)
        if kind == _NUMBER:
            return _OK if fill_any(column.code, out, &pointer, 1, column.takes) else _MISFIT
        if kind == _NESTED:
            return _OK if fill_nested(column, pointer, 0, out) else _MISFIT
        if kind == _ARRAY:
            if type(value) is not _ndarray:
                return _MISFIT
            return _OK if self._put_array(column, value, out) else self._put_by_numpy(column, value, out)
        if kind == _SCALAR:
            if Py_TYPE(pointer) is not column.scalar:
                return _MISFIT
            return self._put_by_numpy(column, value, out)
        if kind == _STRING:
            if not (PyUnicode_CheckExact(value) or (not self.exact and PyUnicode_Check(value))):
                return _MISFIT
            try:
                text = PyUnicode_AsUTF8AndSize(value, &size)
            except UnicodeEncodeError:
                return _MISFIT
            return self._put_bytes(<uint32_t*>out, text, size, top)
        if kind == _BYTES or kind == _BYTEARRAY:
            if PyBytes_CheckExact(value) if self.exact else PyBytes_Check(value):
                if kind == _BYTEARRAY and self.exact:
                    return _MISFIT
                return self._put_bytes(<uint32_t*>out, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), top)
            if isinstance(value, bytearray) and (not self.exact or (kind == _BYTEARRAY and PyByteArray_CheckExact(value))):
                return self._put_bytes(<uint32_t*>out, PyByteArray_AS_STRING(value), PyByteArray_GET_SIZE(value), top)
            return _MISFIT
        if kind == _OBJECT:
            data = dumps(value)
            return self._put_bytes(<uint32_t*>out, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), top)
        return _MISFIT

    cdef int _put_bytes(self, uint32_t* entry, const char* data, Py_ssize_t size, Py_ssize_t* top) noexcept:
        if size > self._slot_bytes - top[0]:
            return _FULL
        memcpy(<char*>self._view.buf + top[0], data, size)
        entry[0] = <uint32_t>top[0]
        entry[1] = <uint32_t>size
        top[0] += size
        return _OK

    cdef bint _put_array(self, ColumnState* column, object array, char* out) except -1:
        """memcpy of an array of just this type and shape; 0 when it is not one."""
        cdef Py_buffer view
        cdef int i
        cdef bint same
        try:
            PyObject_GetBuffer(array, &view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS)
        except (BufferError, ValueError):  # not contiguous, or a type without a buffer format
            return 0
        same = view.ndim == column.dims and view.len == column.row_bytes and _is_format(column, view.format)
        if same:
            for i in range(column.dims):
                same = same and view.shape[i] == column.shape[i]
        if same:
            memcpy(out, view.buf, view.len)
        PyBuffer_Release(&view)
        return same

    cdef int _put_by_numpy(self, ColumnState* column, object value, char* out) except -1:
        """What the loops do not take, through the same functions that infer the schema; they have the last word."""
        cdef Py_buffer view
        definition = self.schema.columns[column - self.columns]
        array = _as_array(value)
        if array is None:
            return _MISFIT
        if self.exact and (array.dtype.name != definition.dtype or not value.dtype.isnative):
            return _MISFIT
        array = _cast_array(array, definition, cast=self.cast)
        if array is None:
            return _MISFIT
        PyObject_GetBuffer(array, &view, PyBUF_C_CONTIGUOUS)
        memcpy(out, view.buf, min(view.len, column.row_bytes))
        PyBuffer_Release(&view)
        return _OK

    cdef object _refuse(self):
        row_bytes, heap_bytes = 0, 0
        values = (self._pending,) if self._structure == "bare" else self._open(self._pending)
        for column, value in zip(self.schema.columns, values):
            row_bytes += column_bytes(column)
            if column.kind == "string":
                heap_bytes += len(value.encode())
            elif column.kind == "bytes":
                heap_bytes += len(value)
            elif column.kind == "object":
                heap_bytes += len(dumps(value))
        raise RowTooLarge(
            f"one row needs {row_bytes} bytes in the columns and {heap_bytes} in the heap; a slot has "
            f"{self._slot_bytes} bytes, {self._slot_bytes - self.layout.heap} of them for the heap; make slot_bytes larger"
        )


cdef extern from "Python.h":
    void _release "Py_DECREF"(PyObject* value)


cdef bint _is_format(ColumnState* column, const char* format) noexcept:
    cdef int i
    for i in range(MAX_FORMATS):
        if column.formats[i] is NULL:
            return 0
        if strcmp(column.formats[i], format) == 0:
            return 1
    return 0


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


def move_rows(layout_src, src_buffer, Py_ssize_t start, Py_ssize_t stop, layout_dst, dst_buffer):
    """Copy the rows ``start`` to ``stop`` of one slot to the beginning of another of the same schema.

    Raises
    ------
    ValueError
        When the schemas differ or the rows are not there.
    RowTooLarge
        When the other slot has no room for them.
    """
    cdef Py_buffer src, dst
    if layout_src.schema != layout_dst.schema:
        raise ValueError("rows can only be moved between slots of one schema")
    if not 0 <= start <= stop <= layout_src.capacity:
        raise ValueError(f"rows {start} to {stop} are not in a slot of {layout_src.capacity}")
    if stop - start > layout_dst.capacity:
        raise RowTooLarge(f"{stop - start} rows do not fit a slot laid out for {layout_dst.capacity}")
    PyObject_GetBuffer(src_buffer, &src, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(dst_buffer, &dst, PyBUF_WRITABLE)
        try:
            if src.len < layout_src.slot_bytes or dst.len < layout_dst.slot_bytes:
                raise ValueError("a buffer is smaller than its layout")
            _move(layout_src, <char*>src.buf, start, stop, layout_dst, <char*>dst.buf)
        finally:
            PyBuffer_Release(&dst)
    finally:
        PyBuffer_Release(&src)


cdef int _move(layout_src, char* src, Py_ssize_t start, Py_ssize_t stop, layout_dst, char* dst) except -1:
    cdef Py_ssize_t row, size, top = layout_dst.heap, room = layout_dst.slot_bytes, limit = layout_src.slot_bytes
    cdef uint32_t* source
    cdef uint32_t* target
    for column, a, b in zip(layout_src.schema.columns, layout_src.offsets, layout_dst.offsets):
        size = column_bytes(column)
        source = <uint32_t*>(src + <Py_ssize_t>a + start * size)
        target = <uint32_t*>(dst + <Py_ssize_t>b)
        if column.kind == "fixed":
            memcpy(target, source, (stop - start) * size)
            continue
        for row in range(stop - start):
            if <Py_ssize_t>source[2 * row] + <Py_ssize_t>source[2 * row + 1] > limit:
                raise ValueError(f"column {column.name!r} of the slot points outside of it: the slot is damaged")
            if source[2 * row + 1] > room - top:
                raise RowTooLarge(f"the values of {stop - start} rows do not fit the heap of a slot of {room} bytes")
            memcpy(dst + top, src + source[2 * row], source[2 * row + 1])
            target[2 * row] = <uint32_t>top
            target[2 * row + 1] = source[2 * row + 1]
            top += source[2 * row + 1]
    return 0
