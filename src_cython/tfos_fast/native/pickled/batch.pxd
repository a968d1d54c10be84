"""A pickled batch of rows, parsed but not unpickled."""

from tfos_fast.native.pickled.parsed cimport Chunk, Machine, Node
from tfos_fast.native.pickled.row_template cimport Pattern


cdef class StreamBatch:
    cdef Machine machine
    cdef Pattern pattern
    cdef bint alike                         # rows may be compared with the pattern
    cdef object fitted                      # the packer for whose columns the pattern was looked at,
    cdef bint fits                          # and whether rows that follow it can be written into them
    cdef object stream
    cdef list _objects
    cdef list types                         # the names in each of the machine's types
    cdef object _loads
    cdef readonly Py_ssize_t rows
    cdef readonly Py_ssize_t position
    cdef Node* node                         # that the next row is, or lies in
    cdef Py_ssize_t within                  # its place in a run of floats
    cdef Chunk* chunk

    cdef bint _know_types(self) except -1
    cdef void first(self) noexcept
    cdef void advance(self) noexcept
    cdef void follow(self) noexcept nogil
    cdef object row_object(self)
    cdef int _parse(self) except -1
    cdef int parse_whole(self) except -1
