"""Runs of pickled floats, by whichever instructions the processor has."""

from libc.stdint cimport uint8_t

# How many floats lie side by side from the opcode at `p` on, of `most` at most (which are all in memory).
cdef Py_ssize_t run_of_floats(const uint8_t* p, Py_ssize_t most) noexcept nogil
# Write so many of them; the first one's opcode is at `p`. `past`: past the caches, until tfos_past_done() (past.h).
cdef void to_float32(const uint8_t* p, float* out, Py_ssize_t count, bint past) noexcept nogil
cdef void to_float64(const uint8_t* p, double* out, Py_ssize_t count, bint past) noexcept nogil
