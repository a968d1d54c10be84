"""Runs of pickled floats, by whichever instructions the processor has; ``binfloat_simd.h`` says how."""

from libc.stdint cimport uint8_t

cdef extern from "pickled/binfloat_simd.h":
    size_t tfos_run_of_floats(const uint8_t* p, size_t most) noexcept nogil
    void tfos_to_float32(const uint8_t* p, float* out, size_t count, int past) noexcept nogil
    void tfos_to_float64(const uint8_t* p, double* out, size_t count, int past) noexcept nogil
    int tfos_choose_floats(int most) noexcept nogil


cdef Py_ssize_t run_of_floats(const uint8_t* p, Py_ssize_t most) noexcept nogil:
    return <Py_ssize_t>tfos_run_of_floats(p, <size_t>most)


cdef void to_float32(const uint8_t* p, float* out, Py_ssize_t count, bint past) noexcept nogil:
    tfos_to_float32(p, out, <size_t>count, past)


cdef void to_float64(const uint8_t* p, double* out, Py_ssize_t count, bint past) noexcept nogil:
    tfos_to_float64(p, out, <size_t>count, past)


def choose(int most):
    """Take as many floats at a time as the processor can, up to `most`; the results are the same. For tests.

    Returns
    -------
    int
        How many are taken at a time: 8 (AVX-512 VBMI), 4 (AVX2) or 1.
    """
    return tfos_choose_floats(most)


choose(8)
