"""The packer: rows from any iterator into a slot of shared memory.

One copy, from the Python object to the slot; ``column_writer.pyx`` knows how each value is written. A row counts only when
all its columns are: one that does not fit leaves nothing behind but bytes that the next row overwrites.
"""

from tfos_fast.values import dtypes as _convert, nested as _nested
from tfos_fast.errors import RowTooLarge

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.dict cimport PyDict_Next
from cpython.iterator cimport PyIter_Check
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from posix.time cimport clock_gettime, timespec

from tfos_fast.native.column_writer cimport ColumnState, NO_ROOM, OK, STRING, Slot, prepare, put

from tfos_fast.native.column_writer import dumps
from tfos_fast.values.dtypes import DTYPES, values_fit

cdef extern from "Python.h":
    PyObject* _next "PyIter_Next"(PyObject* iterator) except? NULL  # NULL without an error: the end
    void _release "Py_DECREF"(PyObject* value)

cdef extern from "<time.h>":
    int CLOCK_MONOTONIC_COARSE

END = 0
FULL = 1
MISFIT = 2
TICK = 3

cdef object _is_spark_row = _convert.is_spark_row
cdef object _row_names = _convert.row_names


cdef double _now() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC_COARSE, &time)  # good to some milliseconds, a fifth of the price of the fine clock
    return <double>time.tv_sec + 1e-9 * <double>time.tv_nsec


cdef class RowPacker:
    """Packs rows of one schema into slots.

    Parameters
    ----------
    schema : tfos_fast.channel.schema.columns.Schema
    exact : bool
        Row mode: take only values that come back equal and of the same type. False: column mode.
    cast : bool
        Column mode with declared types: also narrow, as :func:`tfos_fast.values.dtypes.can_cast` says.

    Attributes
    ----------
    rows : int
        Rows in the bound slot.
    heap_used : int
        Bytes used in its heap.
    layout : Layout or None
        Of the bound slot, or the last one. It may be another than `bind` was given; see `pack_from`.
    has_pending, pending : bool, object
        The row that did not fit; the next `pack_from` begins with it.
    misfit : int
        After MISFIT the column that did not take its value, -1 when the row's structure is another.
    """

    def __cinit__(self, schema, *, exact, cast=False):
        self.schema = schema
        self.exact = exact
        self.cast = cast
        self.misfit = -1
        self._structure = schema.structure
        self._bare = schema.structure == "bare"
        self._names = schema.names
        self._keys = self._names
        self._positional = self._names == tuple([f"c{i}" for i in range(len(self._names))])
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

    def bind(self, buffer, layout, Py_ssize_t rows=0, heap_used=None):
        """Pack into this slot from now on. Memory is not copied; the buffer is held until `unbind`.

        Parameters
        ----------
        buffer : writable buffer
            At least ``layout.slot_bytes`` bytes, its address a multiple of 8.
        layout : tfos_fast.channel.codec.layout.Layout
            For this packer's schema.
        rows : int
            Rows that are in the slot already.
        heap_used : int, optional
            Bytes of its heap that they use; found in the slot when it is not given.

        Raises
        ------
        ValueError
            When layout or buffer do not suit, or a slot is bound.
        """
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
            self._slot.start = <char*>self._view.buf
            self._slot.size = layout.slot_bytes
            self._lay_out(layout)
            if heap_used is not None:
                self._slot.top += heap_used
            elif rows:
                self._slot.top = self._heap_end(rows)
            if not layout.heap <= self._slot.top <= self._slot.size:
                raise ValueError(f"the slot does not hold {rows} rows of this layout: they end at byte {self._slot.top}")
        except ValueError:
            PyBuffer_Release(&self._view)
            raise
        self.rows = rows
        self._bound = True

    cdef int _lay_out(self, layout) except -1:
        cdef Py_ssize_t i
        for i in range(self.count):
            self.columns[i].region = self._slot.start + <Py_ssize_t>layout.offsets[i]
            self.columns[i].mask = NULL
            if layout.masks[i] >= 0:
                self.columns[i].mask = self._slot.start + <Py_ssize_t>layout.masks[i]
        self.layout = layout
        self._capacity = layout.capacity
        self._slot.top = layout.heap
        return 0

    cdef Py_ssize_t _heap_end(self, Py_ssize_t rows) except -1:
        """The heap grows with the rows, so its end is where the last row's values end."""
        cdef Py_ssize_t i, top = self._slot.top
        cdef uint32_t* entry
        for i in range(self.count):
            if self.columns[i].kind >= STRING:
                entry = <uint32_t*>(self.columns[i].region + (rows - 1) * self.columns[i].row_bytes)
                top = max(top, <Py_ssize_t>entry[0] + <Py_ssize_t>entry[1])
        return top

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

        When the first row of a slot finds too little heap, the slot is laid out anew for fewer rows: read `layout`.

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
            A row does not fit a slot of its own; it stays pending.
        Exception
            What the iterator or a value's own code raised; the row is dropped, rows before it stay.
        """
        cdef int event
        cdef double until = _now() + tick_seconds
        self._check_idle()
        if not self._bound:
            raise ValueError("no slot is bound")
        if not PyIter_Check(iterator):
            raise TypeError(f"an iterator is needed, not {type(iterator).__name__}")
        self._busy = True
        try:
            event = self._pack_from(iterator, until)
            while event == _FULL and self.rows == 0:
                self._make_room()
                event = self._pack_from(iterator, until)
        finally:
            self._busy = False
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
        cdef object values  # a tuple, or of a subclass
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
            self.misfit = i
            raise
        if outcome == OK:
            self.rows += 1
            return 0
        self._slot.top = top
        return _FULL if outcome == NO_ROOM else _MISFIT

    cdef object _open(self, object row):
        """The row's values in a tuple, as many as there are columns; None when its structure is another."""
        cdef object values = self._open_exact(row) if self.exact else self._open_columns(row)
        return values if values is not None and PyTuple_GET_SIZE(values) == self.count else None

    cdef object _open_exact(self, object row):
        cdef type kind = type(row)
        cdef str structure = self._structure
        if structure == "tuple":
            return row if kind is tuple else None
        if structure == "list":
            return tuple(row) if kind is list else None
        if structure == "dict":
            return self._values_in_order(<dict>row) if kind is dict and len(row) == self.count else None
        fields = getattr(row, "__fields__", None)
        if fields is None or fields is not self._fields or kind is not self._row_type:
            if not _is_spark_row(row) or _row_names(row) != self._names:
                return None
            self._fields = fields
            self._row_type = kind
        return row

    cdef object _open_columns(self, object row):
        """Column mode: the names count, whatever holds the values."""
        cdef type kind = type(row)
        if kind is tuple:
            return row if self._positional else None
        if isinstance(row, tuple):
            fields = getattr(row, "__fields__", None)
            if fields is not None and fields is self._fields and kind is self._row_type:
                return row
            names = _row_names(row)
            if names == self._names:
                self._fields = fields
                self._row_type = kind
                return row
            if names is None:
                return tuple(row) if self._positional else None
            row = dict(zip(names, row))
        elif isinstance(row, list):
            return tuple(row) if self._positional else None
        if not isinstance(row, dict) or len(row) != self.count:
            return None
        if type(row) is dict:
            values = self._values_in_order(<dict>row)
            if values is not None:
                return values
        try:
            return tuple([row[name] for name in self._names])
        except KeyError:
            return None

    cdef object _values_in_order(self, dict row):
        """The values when the keys are the columns' names in their order, and exactly str; else None."""
        cdef Py_ssize_t i, position = 0
        cdef PyObject* key
        cdef PyObject* value
        cdef tuple values = PyTuple_New(self.count)
        cdef bint same_keys = True
        for i in range(self.count):
            PyDict_Next(row, &position, &key, &value)
            if key != PyTuple_GET_ITEM(self._keys, i):
                if not PyUnicode_CheckExact(<object>key) or <object>key != self._names[i]:
                    return None
                same_keys = False
            Py_INCREF(<object>value)  # PyTuple_SET_ITEM takes a reference
            PyTuple_SET_ITEM(values, i, <object>value)
        if not same_keys:
            self._keys = tuple(row)  # rows of one program share their keys: the next one is compared by identity
        return values

    cdef int _make_room(self) except -1:
        """Lay the empty slot out for rows such as the pending one, which did not fit."""
        row_bytes, heap_bytes = 0, 0
        values = (self._pending,) if self._bare else self._open(self._pending)
        for column, value in zip(self.schema.columns, values):
            row_bytes += column.row_bytes
            if value is None and column.nulls in ("fill", "mask"):
                heap_bytes += len(_convert.fill_bytes(column.kind, column.dtype, column.shape, column.fill)) if column.in_heap else 0
            elif column.in_heap:
                heap_bytes += self._heap_bytes(column, value)
        roomier = self.layout.roomier(heap_bytes)
        if self._slot.size - roomier.heap < heap_bytes or self.layout.heap <= roomier.heap:
            raise RowTooLarge(
                f"one row needs {row_bytes} bytes in the columns and {heap_bytes} in the heap; a slot has "
                f"{self._slot.size} bytes; make slot_bytes larger (of run, reserve or Channel.create)"
            )
        self._lay_out(roomier)
        return 0

    cdef Py_ssize_t _heap_bytes(self, column, value) except -1:
        """Bytes of the heap for one value: 0 for one that the column does not take, which is found out when there is room for the rest."""
        if column.kind == "object":
            return len(dumps(value))
        if column.kind == "ragged":
            data = _nested.encode(value, column.dtype, column.shape, cast=self.cast, unit=column.unit)
            return 0 if data is None else 7 + len(data)  # it may begin at a multiple of 8
        if column.kind == "string":
            return len(value.encode(errors="replace")) if isinstance(value, str) else 0
        return len(value) if isinstance(value, (bytes, bytearray)) else 0


def move_rows(layout_src, src_buffer, Py_ssize_t start, Py_ssize_t stop, layout_dst, dst_buffer):
    """Copy the rows ``start`` to ``stop`` of one slot to the beginning of another of the same schema.

    Returns
    -------
    int
        Bytes that they use in the other's heap.

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
            return _move(layout_src, <char*>src.buf, start, stop, layout_dst, <char*>dst.buf)
        finally:
            PyBuffer_Release(&dst)
    finally:
        PyBuffer_Release(&src)


cdef Py_ssize_t _move(layout_src, char* src, Py_ssize_t start, Py_ssize_t stop, layout_dst, char* dst) except -1:
    cdef Py_ssize_t row, size, top = layout_dst.heap, room = layout_dst.slot_bytes, limit = layout_src.slot_bytes
    cdef uint32_t* source
    cdef uint32_t* target
    for a, b in zip(layout_src.masks, layout_dst.masks):
        if a >= 0:
            memcpy(dst + <Py_ssize_t>b, src + <Py_ssize_t>a + start, stop - start)
    for column, a, b in zip(layout_src.schema.columns, layout_src.offsets, layout_dst.offsets):
        size = column.row_bytes
        source = <uint32_t*>(src + <Py_ssize_t>a + start * size)
        target = <uint32_t*>(dst + <Py_ssize_t>b)
        if not column.in_heap:
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
    return top - <Py_ssize_t>layout_dst.heap
