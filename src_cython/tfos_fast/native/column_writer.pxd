"""One column of a slot, as the packer writes it."""

from cpython.object cimport PyObject
from cpython.ref cimport PyTypeObject
from libc.stdint cimport uint32_t


cdef enum Outcome:
    OK = 0          # written
    NO_ROOM = 1     # the heap is full
    UNFIT = 2       # the value is none that this column takes

cdef enum Kind:
    NEVER           # takes nothing that Python makes
    NUMBER          # row mode: one Python number
    NESTED          # row mode: nested lists and tuples of Python numbers
    ARRAY           # row mode: a numpy array
    SCALAR          # row mode: a numpy scalar
    ANY             # column mode: whatever gives numbers of this type and shape
    NULLS           # column mode: nothing but None
    UNUSED          # column mode: anything, and nothing is written
    STRING          # from here on the values lie in the heap
    BYTES
    BYTEARRAY       # row mode; in column mode it is BYTES
    OBJECT
    RAGGED          # column mode: lists whose lengths differ

cdef enum:
    MAX_DIMS = 16
    MAX_FORMATS = 3

cdef struct ColumnState:
    Kind kind
    bint exact                              # row mode
    bint cast                               # column mode with declared types
    bint counted                            # column mode: of a unit (``values/special.py``), or objects of which only some are taken
    bint raw                                # fixed, column mode: byte strings are the values' memory
    int code                                # of _values.Code; NO_CODE: numpy does it
    int takes                               # of _values.Leaf
    int casts                               # column mode, float32 and float64: bit n for each array of Code n to cast
    int dims
    Py_ssize_t shape[MAX_DIMS]
    Py_ssize_t steps[MAX_DIMS]              # bytes from one item of a dimension to the next
    PyTypeObject* levels[MAX_DIMS]          # row mode: list or tuple, from the outside in
    PyTypeObject* scalar                    # the numpy scalar's type; borrowed from `keep`
    const char* formats[MAX_FORMATS]        # the element type's names in the buffer protocol; borrowed from `keep`
    PyObject* definition                    # the schema's Column; borrowed from `keep`
    Py_ssize_t row_bytes                    # bytes of a row in the region
    char* region                            # while a slot is bound
    bint nulls                              # None is taken:
    const char* fill                        # these bytes are written for it; borrowed from `keep`
    Py_ssize_t fill_bytes
    char* mask                              # while a slot is bound; NULL: it has none
    Py_ssize_t inner                        # ragged, numbers of one ragged dimension: how many an item has, and their bytes; else 0
    Py_ssize_t itemsize

cdef struct Slot:
    char* start
    Py_ssize_t size
    Py_ssize_t top                          # where the next value in the heap goes, from the slot's start

cdef int prepare(ColumnState* state, column, bint exact, bint cast, list keep) except -1
cdef int put(ColumnState* column, object value, Slot* slot, Py_ssize_t row) except -1
cdef int put_null(ColumnState* column, Slot* slot, Py_ssize_t row) noexcept
cdef int put_bytes(uint32_t* entry, const char* data, Py_ssize_t size, Slot* slot) noexcept
