"""What the rows of a pickled list have in common, byte by byte, so that the next ones need only be compared."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from tfos_fast.native.pickled.parsed cimport Array, LONG1, Machine, little, signed_little


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

cdef inline Py_ssize_t size_of_int(const uint8_t* p, Py_ssize_t room) noexcept nogil:
    """Bytes of an int's opcode and argument; 0: it is none, or a larger one, or cut off."""
    cdef Py_ssize_t size = 0
    if room < 2:
        return 0
    if p[0] == c"K":
        size = 2
    elif p[0] == c"M":
        size = 3
    elif p[0] == c"J":
        size = 5
    elif p[0] == LONG1 and p[1] <= 8:
        size = 2 + p[1]
    return size if size <= room else 0

cdef inline int64_t value_of_int(const uint8_t* p) noexcept nogil:
    """Of an int that has a size."""
    if p[0] == c"K":
        return p[1]
    if p[0] == c"M":
        return <int64_t>little(p + 1, 2)
    return signed_little(p + 1, 4) if p[0] == c"J" else signed_little(p + 2, p[1])

cdef inline bint differ(const uint8_t* one, const uint8_t* other, Py_ssize_t size) noexcept nogil:
    """Whether so many bytes differ. Those between the fields of a row are few, and a call of memcmp takes longer than they do."""
    cdef uint64_t first[2]
    cdef uint64_t last[2]
    cdef uint32_t head[2]
    cdef uint32_t foot[2]
    if size <= 3:
        return size > 0 and (one[0] != other[0] or one[size >> 1] != other[size >> 1] or one[size - 1] != other[size - 1])
    if size < 8:
        memcpy(&head[0], one, 4)
        memcpy(&head[1], other, 4)
        memcpy(&foot[0], one + size - 4, 4)
        memcpy(&foot[1], other + size - 4, 4)
        return head[0] != head[1] or foot[0] != foot[1]
    if size <= 16:
        memcpy(&first[0], one, 8)
        memcpy(&first[1], other, 8)
        memcpy(&last[0], one + size - 8, 8)
        memcpy(&last[1], other + size - 8, 8)
        return first[0] != first[1] or last[0] != last[1]
    return memcmp(one, other, <size_t>size) != 0
