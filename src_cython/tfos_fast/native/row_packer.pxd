"""The packer, for whoever else writes into its slot."""

from cpython.buffer cimport Py_buffer

from tfos_fast.native.column_writer cimport ColumnState, Slot


cdef enum Event:
    _END = 0
    _FULL = 1
    _MISFIT = 2
    _TICK = 3

cdef double _now() noexcept nogil

cdef class RowPacker:
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
    cdef tuple _names
    cdef tuple _keys                       # the same strings as the last dict had them
    cdef object _fields                    # the __fields__ object that was last found to be right,
    cdef object _row_type                  # and the type it was found at
    cdef list _keep
    cdef bint _bare
    cdef bint _positional                  # the columns are c0, c1, ...
    cdef Py_buffer _view
    cdef bint _bound
    cdef bint _busy
    cdef Py_ssize_t _capacity
    cdef Slot _slot

    cdef int _lay_out(self, layout) except -1
    cdef Py_ssize_t _heap_end(self, Py_ssize_t rows) except -1
    cdef int _check_idle(self) except -1
    cdef int _pack_from(self, object iterator, double until) except -1
    cdef int _put_row(self, object row) except -1
    cdef object _open(self, object row)
    cdef object _open_exact(self, object row)
    cdef object _open_columns(self, object row)
    cdef object _values_in_order(self, dict row)
    cdef int _make_room(self) except -1
    cdef Py_ssize_t _heap_bytes(self, column, value) except -1
