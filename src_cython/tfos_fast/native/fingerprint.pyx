"""A number that tells two runs of the same rows apart, from a few bytes of a few of them.

It does not depend on how rows were cut into slots: what a value adds depends on the number of its row, of its column, and on itself.
A slot that was copied past the caches (see ``nt_copy.pyx``) is read here, so few values are looked at: reading all would cost as much as
the copy.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef uint64_t GOLDEN = 0x9E3779B97F4A7C15ULL


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    """The finisher of splitmix64: every bit of the input changes every bit of the output half of the time."""
    x ^= x >> 30
    x *= 0xBF58476D1CE4E5B9ULL
    x ^= x >> 27
    x *= 0x94D049BB133111EBULL
    return x ^ (x >> 31)


def sample(
    window, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t dense, Py_ssize_t stride,
    const int64_t[::1] columns, const int64_t[::1] offsets, const int64_t[::1] widths,
):
    """The sum over the sampled values of rows ``first`` to ``first + rows`` of a partition, which lie in a slot; below 2**62.

    Parameters
    ----------
    window : C-contiguous buffer
        The slot.
    first, rows : int
    dense, stride : int
        Sampled are the rows below ``dense``, and every row whose number is a multiple of ``stride``.
    columns, offsets, widths : int64 arrays
        Of each sampled column its number, the place of its region, and bytes of a row's value; -1: it lies in the heap.

    Raises
    ------
    ValueError
        A region or an entry of the heap is not inside of the window.
    """
    cdef const unsigned char[::1] bytes_ = window
    cdef Py_ssize_t size = bytes_.shape[0], n = columns.shape[0], i = first, c, row, width, start
    cdef uint64_t total = 0, word, seed
    cdef uint32_t entry[2]
    cdef const unsigned char* slot
    cdef bint bad = False
    if stride < 1 or first < 0 or rows < 0 or offsets.shape[0] != n or widths.shape[0] != n:
        raise ValueError("nothing that can be sampled")
    if rows == 0 or n == 0:
        return 0
    slot = &bytes_[0]
    if i >= dense:
        i = (i + stride - 1) // stride * stride
    with nogil:
        while i < first + rows and not bad:
            row = i - first
            for c in range(n):
                width = widths[c]
                start = offsets[c] + row * (8 if width < 0 else width)
                if offsets[c] < 0 or start + (8 if width < 0 else width) > size:
                    bad = True
                    break
                if width < 0:
                    memcpy(entry, slot + start, 8)
                    start, width = entry[0], entry[1]
                    if start + width > size:
                        bad = True
                        break
                seed = mix(<uint64_t> i * GOLDEN + <uint64_t> columns[c])
                word = 0
                if width > 8:
                    memcpy(&word, slot + start + <Py_ssize_t> (seed % <uint64_t> (width - 7)), 8)
                else:
                    memcpy(&word, slot + start, width)
                total += mix(word + mix(seed + <uint64_t> width))
            i = i + 1 if i + 1 < dense else (i // stride + 1) * stride
    if bad:
        raise ValueError(f"a value of row {i} is not inside of the slot")
    return total & ((1ULL << 62) - 1)
