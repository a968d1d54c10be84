"""Shared memory as objects whose lifetimes the interpreter keeps: a mapping, the leases on its slots, and their way back.

Nothing here talks to a socket. The last owner of a lease may be dropped on any thread, during garbage collection or at exit; all
that happens then is one atomic bit and, if it was the first, one write to an eventfd. The thread that owns the reader's socket
collects the bits and tells the broker.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport errno
from libc.stdint cimport uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport strerror

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void* addr, size_t length)
    int madvise(void* addr, size_t length, int advice)
    int PROT_NONE, PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED
    void* MAP_FAILED

cdef enum:
    MADV_POPULATE_WRITE = 23  # <linux/mman.h>; these two are younger than many C libraries
    MADV_COLLAPSE = 25

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initval, int flags)
    int eventfd_read(int fd, uint64_t* value)
    int eventfd_write(int fd, uint64_t value)
    int EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    long sysconf(int name)
    int _SC_PAGESIZE

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint64_t tfos_fetch_or(uint64_t *word, uint64_t bits) { return __atomic_fetch_or(word, bits, __ATOMIC_ACQ_REL); }
    static inline uint64_t tfos_look(uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
    static inline uint64_t tfos_take(uint64_t *word) { return __atomic_exchange_n(word, 0, __ATOMIC_ACQ_REL); }
    """
    uint64_t tfos_fetch_or(uint64_t* word, uint64_t bits) nogil
    uint64_t tfos_look(uint64_t* word) nogil
    uint64_t tfos_take(uint64_t* word) nogil


cdef enum:
    _HUGE = 2 << 20

HUGE_PAGE = _HUGE  # bytes, on x86-64 and on ARM with pages of 4 KiB


@cython.no_gc
cdef class Mapping:
    """One ``mmap`` of a segment, shared and writable. Unmapped when the last lease or buffer on it is gone.

    It begins at a multiple of `HUGE_PAGE`: what lies in huge pages can then be mapped by them.

    Parameters
    ----------
    fd : int
        File descriptor of the segment; it may be closed afterwards.
    size : int
        Bytes to map, from offset 0.
    """
    cdef char* base
    cdef readonly size_t size

    def __cinit__(self, int fd, size_t size):
        cdef char* room
        cdef char* base
        cdef size_t page = sysconf(_SC_PAGESIZE), more = size + _HUGE, skipped, whole = (size + page - 1) // page * page
        self.base = NULL
        with nogil:
            room = <char*> mmap(NULL, more, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if <void*> room == MAP_FAILED:
            raise OSError(errno, strerror(errno).decode(), f"mmap of {size} bytes")
        skipped = (_HUGE - <uintptr_t> room % _HUGE) % _HUGE
        base = room + skipped
        if mmap(base, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED:
            error = OSError(errno, strerror(errno).decode(), f"mmap of {size} bytes")
            munmap(room, more)
            raise error
        if skipped:
            munmap(room, skipped)
        if more - skipped > whole:
            munmap(base + whole, more - skipped - whole)
        self.base = base
        self.size = size

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)

    @property
    def address(self):
        """Address of the first byte in this process (int)."""
        return <uintptr_t> self.base

    def populate(self, size_t offset, size_t length):
        """Enter these pages into the page table in one call, instead of by a fault each (the pages themselves exist already).

        Both numbers are multiples of the page size. Kernels before 5.14 do not know the call; the faults then come one by one.
        """
        self._check(offset, length)
        with nogil:
            madvise(self.base + offset, length, MADV_POPULATE_WRITE)

    def collapse(self, size_t offset, size_t length):
        """Put these bytes into huge pages, for this process and all that map the segment from their place on. Their values stay.

        Both numbers are multiples of `HUGE_PAGE`.

        Returns
        -------
        bool
            False: the kernel has no such page to spare, or is older than 6.1 and does not know the call.
        """
        cdef int failed
        self._check(offset, length)
        with nogil:
            failed = madvise(self.base + offset, length, MADV_COLLAPSE)
        return not failed

    cdef _check(self, size_t offset, size_t length):
        if offset > self.size or length > self.size - offset:
            raise ValueError(f"bytes {offset} to {offset + length} are outside a segment of {self.size} bytes")

    def window(self, size_t offset, size_t length):
        """A writable window without a lease, for the slot's owner. Memory is not copied."""
        return Window(self, offset, length)


@cython.no_gc
cdef class Window:
    """A part of a mapping, by the buffer protocol (one dimension of bytes, writable). Memory is not copied.

    Every buffer taken from it keeps it alive, and it keeps the mapping alive.
    """
    cdef Mapping mapping
    cdef readonly size_t offset, length

    def __cinit__(self, Mapping mapping not None, size_t offset, size_t length, *args):
        if offset > mapping.size or length > mapping.size - offset:
            raise ValueError(f"bytes {offset} to {offset + length} are outside a segment of {mapping.size} bytes")
        self.mapping = mapping
        self.offset = offset
        self.length = length

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.mapping.base + self.offset, self.length, 0, flags)

    def __releasebuffer__(self, Py_buffer* buffer):
        pass

    def __len__(self):
        return self.length

    @property
    def address(self):
        """Address of the first byte in this process (int)."""
        return <uintptr_t> (self.mapping.base + self.offset)


@cython.no_gc
cdef class ReleaseSet:
    """The slots whose last lease was dropped: a bitmap that any thread may set, and an eventfd to wait on.

    Parameters
    ----------
    slots : int
        Number of slots of the segment.
    """
    cdef uint64_t* words
    cdef size_t n_words
    cdef readonly int fd

    def __cinit__(self, size_t slots):
        self.fd = -1
        self.n_words = (slots + 63) // 64
        self.words = <uint64_t*> calloc(self.n_words, sizeof(uint64_t))
        if self.words == NULL:
            raise MemoryError()
        self.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.fd < 0:
            raise OSError(errno, strerror(errno).decode(), "eventfd")

    def __dealloc__(self):
        free(self.words)
        if self.fd >= 0:
            close(self.fd)

    cdef void push(self, size_t slot) noexcept nogil:
        # One wake-up is enough until somebody drains: a set bit means that the eventfd was rung already.
        if tfos_fetch_or(&self.words[slot >> 6], (<uint64_t> 1) << (slot & 63)) == 0:
            eventfd_write(self.fd, 1)

    @property
    def pending(self):
        """Whether ``drain`` would find something (bool). No system call: readers ask before every batch."""
        cdef size_t word
        for word in range(self.n_words):
            if tfos_look(&self.words[word]):
                return True
        return False

    def drain(self):
        """Take all slots released since the last call.

        Returns
        -------
        list of int
        """
        cdef uint64_t bits, ignored
        cdef size_t word
        cdef int bit
        cdef list slots = []
        eventfd_read(self.fd, &ignored)
        for word in range(self.n_words):
            bits = tfos_take(&self.words[word])
            bit = 0
            while bits:
                if bits & 1:
                    slots.append(word * 64 + bit)
                bits >>= 1
                bit += 1
        return slots


@cython.no_gc
cdef class Lease(Window):
    """A window on a delivered slot. The slot goes back when this object and every buffer taken from it are gone.

    NumPy arrays, DLPack capsules and tensors made from it hold it alive through the buffer protocol, so the count of what still
    aliases the slot is the interpreter's own reference count.

    Parameters
    ----------
    mapping, offset, length
        As for a window.
    released : ReleaseSet
        Where the slot's number goes at the end.
    slot : int
    """
    cdef ReleaseSet released
    cdef readonly size_t slot

    def __cinit__(self, Mapping mapping not None, size_t offset, size_t length, ReleaseSet released not None, size_t slot):
        if slot >= released.n_words * 64:
            raise ValueError(f"no slot {slot}")
        self.released = released
        self.slot = slot

    def __dealloc__(self):
        if self.released is not None:
            self.released.push(self.slot)
