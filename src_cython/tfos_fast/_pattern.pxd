"""What the rows of a pickled list have in common, byte by byte, so that the next ones need only be compared."""

from libc.stdint cimport int64_t, uint8_t

from tfos_fast._nodes cimport Array, Machine


cdef enum:
    MAX_FIELDS = 64
    MAX_COLUMNS = 128
    MAX_LITERALS = 1024
    MAX_RECALLED = 16
    MAX_TEXT = 16

cdef enum FieldKind:
    RUN             # so many floats side by side
    WHOLE_NUMBER    # an int of up to 8 bytes, by any of its opcodes
    TRUTH           # True or False
    DATA            # the bytes of an array or numpy scalar

cdef struct Field:                          # of a row: where its bytes differ from those of the others
    int kind
    Py_ssize_t literal                      # bytes before it that all rows share
    Py_ssize_t count                        # of a run: floats, of data: bytes
    Py_ssize_t column
    Py_ssize_t index                        # of its first number in the column's value
    bint spread                             # every float of the run is a column of its own

cdef struct Part:                           # a column of the row
    int kind                                # of NodeKind: INT stands for any number
    Py_ssize_t items                        # of a list or tuple
    Array array

cdef struct Recalled:                       # what rows refer to, by its number
    Py_ssize_t number
    int kind                                # of NodeKind
    int64_t value                           # which function; the dtype's code; bytes of the text
    Py_ssize_t itemsize
    uint8_t text[MAX_TEXT]

cdef struct Pattern:
    Py_ssize_t fields                       # 0: there is no pattern
    Py_ssize_t columns
    Py_ssize_t recalls
    Py_ssize_t remembered                   # by each row
    Py_ssize_t literals                     # bytes
    Py_ssize_t tail                         # of these, behind the last field
    int kind                                # TUPLE or LIST
    Field field[MAX_FIELDS]
    Part part[MAX_COLUMNS]
    Recalled recalled[MAX_RECALLED]
    uint8_t literal[MAX_LITERALS]

cdef void learn(Pattern* pattern, Machine* m) noexcept nogil
cdef bint suits(Pattern* pattern, Machine* m) noexcept nogil
cdef Py_ssize_t end_of_row(Pattern* pattern, const uint8_t* stream, Py_ssize_t at, Py_ssize_t size) noexcept nogil
cdef Py_ssize_t size_of_int(const uint8_t* p, Py_ssize_t room) noexcept nogil
cdef int64_t value_of_int(const uint8_t* p) noexcept nogil
