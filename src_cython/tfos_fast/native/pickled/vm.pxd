"""The pickle machine: runs the opcodes of a stream and makes structs in place of Python objects."""

from tfos_fast.native.pickled.parsed cimport Machine
from tfos_fast.native.pickled.row_template cimport Pattern

# Forget what a stream has left; the memory is kept. A machine of zeros has none yet.
cdef void reset(Machine* m) noexcept nogil
# Free its memory.
cdef void release(Machine* m) noexcept nogil
# The whole stream: an Outcome. With a pattern, rows that follow it are compared only, and if none does it can be learnt anew.
cdef int parse(Machine* m, Pattern* pattern) noexcept nogil
