"""The packer: rows from any iterator into a slot of shared memory.

One copy, from the Python object to the slot; ``_column.pyx`` knows how each value is written. A row counts only when
all its columns are: one that does not fit leaves nothing behind but bytes that the next row overwrites.
"""

from tfos_fast.channel import schema as _schema
from tfos_fast.channel.layout import column_bytes
from tfos_fast.errors import RowTooLarge

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.iterator cimport PyIter_Check
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from posix.time cimport clock_gettime, timespec

from tfos_fast._column cimport ColumnState, NO_ROOM, OK, STRING, Slot, prepare, put

from tfos_fast._column import dumps

cdef extern from "Python.h":
    PyObject* _next "PyIter_Next"(PyObject* iterator) except? NULL  # NULL without an error: the end
    void _release "Py_DECREF"(PyObject* value)

cdef extern from "<time.h>":
    int CLOCK_MONOTONIC_COARSE

END = 0
FULL = 1
MISFIT = 2
TICK = 3

cdef enum Event:
    _END = 0
    _FULL = 1
    _MISFIT = 2
    _TICK = 3

cdef object _is_spark_row = _schema.is_spark_row
cdef object _row_names = _schema.row_names


cdef double _now() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC_COARSE, &time)  # good to some milliseconds, a fifth of the price of the fine clock
    return <double>time.tv_sec + 1e-9 * <double>time.tv_nsec


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
    cdef bint _bare
    cdef Py_buffer _view
    cdef bint _bound
    cdef bint _busy
    cdef Py_ssize_t _capacity
    cdef Slot _slot

    def __cinit__(self, schema, *, exact, cast=False):
        self.schema = schema
        self.exact = exact
        self.cast = cast
        self.misfit = -1
        self._structure = schema.structure
        self._bare = schema.structure == "bare"
        self._names = schema.names
        self._keep = []
        self.count = len(schema.columns)
        self.columns = <ColumnState*>PyMem_Calloc(max(self.count, 1), sizeof(ColumnState))
        if self.columns is NULL:
            raise MemoryError()
        for i, column in enumerate(schema.columns):
            prepare(&self.columns[i], column, exact, cast, self._keep)

    def __dealloc__(self):
        if self._bound:
            PyBuffer_Release(&self._view)
        PyMem_Free(self.columns)

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
        self._slot.start = <char*>self._view.buf
        self._slot.size = layout.slot_bytes
        top = layout.heap
        for i in range(self.count):
            self.columns[i].region = <char*>self._view.buf + <Py_ssize_t>layout.offsets[i]
            if rows and self.columns[i].kind >= STRING:
                # The heap grows with the rows: its end is the end of the last row's values.
                entry = <uint32_t*>(self.columns[i].region + (rows - 1) * self.columns[i].row_bytes)
                end = <Py_ssize_t>entry[0] + <Py_ssize_t>entry[1]
                top = max(top, end)
        self._slot.top = top

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
        return 0 if self.layout is None else self._slot.top - <Py_ssize_t>self.layout.heap

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
            END: the iterator has ended. FULL: the slot has no room; the pending row, if there is one, did not fit.
            MISFIT: the pending row does not fit the schema. TICK: the time has passed.

        Raises
        ------
        RowTooLarge
            A row does not fit an empty slot; it stays pending.
        Exception
            What the iterator or a value's own code raised; the row is dropped, rows before it stay.
        """
        cdef int event
        self._check_idle()
        if not self._bound:
            raise ValueError("no slot is bound")
        if not PyIter_Check(iterator):
            raise TypeError(f"an iterator is needed, not {type(iterator).__name__}")
        self._busy = True
        try:
            event = self._pack_from(iterator, _now() + tick_seconds)
        finally:
            self._busy = False
        if event == _FULL and self.rows == 0:
            raise self._too_large()
        return event

    cdef int _pack_from(self, object iterator, double until) except -1:
        cdef PyObject* item
        cdef object row
        cdef int event
        while True:
            if self.rows >= self._capacity and self._capacity:
                return _FULL
            if self.has_pending:
                row = self._pending
                self._pending = None
                self.has_pending = False
            else:
                item = _next(<PyObject*>iterator)
                if item is NULL:
                    return _END
                row = <object>item
                _release(item)
            event = self._put_row(row)
            if event:
                self._pending = row
                self.has_pending = True
                return event
            if _now() >= until:
                return _FULL if self.rows >= self._capacity else _TICK

    cdef int _put_row(self, object row) except -1:
        """Pack one row: 0, _FULL or _MISFIT. Everything that it changed before is undone unless it returns 0."""
        cdef Py_ssize_t i, top = self._slot.top
        cdef int outcome = OK
        cdef tuple values
        if self._bare:
            values = None
        else:
            values = self._open(row)
            if values is None:
                self.misfit = -1
                return _MISFIT
        if self.rows >= self._capacity:
            return _FULL
        try:
            for i in range(self.count):
                outcome = put(
                    &self.columns[i], row if self._bare else <object>PyTuple_GET_ITEM(values, i), &self._slot, self.rows
                )
                if outcome != OK:
                    self.misfit = i
                    break
        except BaseException:
            self._slot.top = top
            raise
        if outcome == OK:
            self.rows += 1
            return 0
        self._slot.top = top
        return _FULL if outcome == NO_ROOM else _MISFIT

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

    cdef object _too_large(self):
        row_bytes, heap_bytes = 0, 0
        values = (self._pending,) if self._bare else self._open(self._pending)
        for column, value in zip(self.schema.columns, values):
            row_bytes += column_bytes(column)
            if column.kind == "string":
                heap_bytes += len(value.encode())
            elif column.kind == "bytes":
                heap_bytes += len(value)
            elif column.kind == "object":
                heap_bytes += len(dumps(value))
        return RowTooLarge(
            f"one row needs {row_bytes} bytes in the columns and {heap_bytes} in the heap; a slot has "
            f"{self._slot.size} bytes, {self._slot.size - self.layout.heap} for the heap; make slot_bytes larger"
        )


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
