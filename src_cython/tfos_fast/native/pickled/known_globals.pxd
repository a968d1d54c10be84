"""The functions that a stream may name, and what comes of their calls."""

from tfos_fast.native.pickled.parsed cimport Machine

# Push the function that is named by two lines of text from `at` on, or by the two texts on the stack.
cdef int global_lines(Machine* m, Py_ssize_t* at) noexcept nogil
cdef int stack_global(Machine* m) noexcept nogil
# Call the function on the stack, or give the dtype or array on it its state.
cdef int reduce(Machine* m) noexcept nogil
cdef int build(Machine* m) noexcept nogil
