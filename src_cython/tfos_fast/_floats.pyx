"""Runs of pickled floats, by whichever instructions the processor has; ``_floats.h`` says how."""

from libc.stdint cimport uint8_t

cdef extern from "_floats.h":
    size_t tfos_run_of_floats(const uint8_t* p, size_t most) noexcept nogil
    void tfos_to_float32(const uint8_t* p, float* out, size_t count) noexcept nogil
    void tfos_to_float64(const uint8_t* p, double* out, size_t count) noexcept nogil
    bint tfos_choose_floats(bint wide) noexcept nogil


cdef Py_ssize_t run_of_floats(const uint8_t* p, Py_ssize_t most) noexcept nogil:
    return <Py_ssize_t>tfos_run_of_floats(p, <size_t>most)


cdef void to_float32(const uint8_t* p, float* out, Py_ssize_t count) noexcept nogil:
    tfos_to_float32(p, out, <size_t>count)


cdef void to_float64(const uint8_t* p, double* out, Py_ssize_t count) noexcept nogil:
    tfos_to_float64(p, out, <size_t>count)


def choose(bint wide):
    """Take floats seven at a time, where the processor can, or one by one; the results are the same. For tests.

    Returns
    -------
    bool
        Whether they are taken seven at a time.
    """
    return tfos_choose_floats(wide)


choose(True)
