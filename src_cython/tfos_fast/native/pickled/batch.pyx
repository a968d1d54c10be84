"""Pickled batches of rows, read without unpickling them.

Spark keeps the rows of a stored RDD as pickled lists. ``StreamBatch`` has a pickle machine (``vm.pyx``) make small structs,
which say where in the stream each value lies, instead of Python objects; ``pack_rows.pyx`` writes those into a slot.

It never imports or calls what a stream names. It knows the functions by which numpy's arrays, scalars and dtypes and pyspark's rows
are pickled (``known_globals.pyx``), those of ``DataFrame.rdd`` by the JVM, too; a stream with any other function, or with anything else that
it does not know, it refuses as a whole, since such a call might change values that were read before. The caller then unpickles the
batch. Strings and bytes are not copied.
"""

import pickle

from tfos_fast.values.jvm_rows import names_of

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from tfos_fast.native.pickled.vm cimport parse, release, reset
from tfos_fast.native.pickled.parsed cimport Chunk, FLOATS, LIST, MAX_COUNT, Machine, TUPLE, Text, children_of, chunk_of
from tfos_fast.native.pickled.row_template cimport Pattern, learn
from tfos_fast.native.pickled.vm_stack cimport DONE, NO_MEMORY, UNKNOWN, top


cdef class StreamBatch:
    """One pickled list of rows (the JVM pickles a tuple of them).

    The same object may be used for one batch after the other; its memory is kept.

    Parameters
    ----------
    loads : callable, optional
        Unpickles a batch; default ``pickle.loads``.

    Attributes
    ----------
    rows : int
        Rows of the loaded batch.
    position : int
        The row that is packed next.
    """

    def __cinit__(self, loads=pickle.loads):
        self._loads = loads
        self.alike = True
        reset(&self.machine)

    def __dealloc__(self):
        release(&self.machine)

    def load(self, bytes stream):
        """Parse a pickled list. Memory is not copied: the stream is kept.

        Returns
        -------
        bool
            False when it must be unpickled: it is no list, is damaged, or has something that is not known here.

        Raises
        ------
        MemoryError
        """
        cdef Machine* m = &self.machine
        self.clear()
        self.stream = stream
        m.bytes = <const uint8_t*>PyBytes_AS_STRING(stream)
        m.size = PyBytes_GET_SIZE(stream)
        if self._parse() != DONE or not self._know_types():
            self.clear()
            return False
        self.first()
        return True

    cdef int _parse(self) except -1:
        """DONE (it is a list, or a tuple), or UNKNOWN."""
        cdef Machine* m = &self.machine
        cdef Pattern* pattern = &self.pattern if self.alike and m.size <= MAX_COUNT else NULL
        cdef int outcome
        with nogil:
            outcome = parse(m, pattern)
            if m.solid >= 0 and outcome != DONE and outcome != NO_MEMORY:
                # Rows are referred to by others, or it is not as it looked: so it is everywhere in this data, probably.
                pattern = NULL
                reset(m)
                outcome = parse(m, NULL)
        self.alike = self.alike and (pattern is not NULL or m.size > MAX_COUNT)
        if outcome == NO_MEMORY:
            raise MemoryError()
        if outcome != DONE or (top(m).kind != LIST and top(m).kind != TUPLE):
            return UNKNOWN
        if pattern is not NULL and m.solid < 0:
            learn(pattern, m)
            self.fitted = None
        return DONE

    cdef int parse_whole(self) except -1:
        """Parse the batch again without the pattern, now and from here on; the position stays."""
        cdef Py_ssize_t position = self.position
        cdef int outcome
        self.alike = False
        reset(&self.machine)
        outcome = self._parse()
        assert outcome == DONE  # what follows the pattern means what it would mean without
        self.first()
        self.position = 0
        self.skip(position)
        return 0

    @property
    def compared(self):
        """Whether rows of the batch were compared with a pattern, not parsed."""
        return self.machine.solid >= 0

    def clear(self):
        """Let go of the batch."""
        reset(&self.machine)
        self.machine.bytes = NULL
        self.machine.size = 0
        self.rows = self.position = 0
        self.stream = self._objects = None

    def rest(self):
        """The rows from ``position`` on, unpickled."""
        return self._unpickle()[self.position:]

    cdef object row_object(self):
        """The row at ``position``, unpickled."""
        return self._unpickle()[self.position]

    def _unpickle(self):
        if self._objects is None:
            self._objects = list(self._loads(self.stream)) if self.stream is not None else []
        return self._objects

    cdef bint _know_types(self) except -1:
        """Find the names in the types of the JVM's rows; False when values of one would be converted."""
        cdef Text* text = <Text*>self.machine.types.data
        cdef Py_ssize_t i
        self.types = []
        for i in range(self.machine.types.used):
            names = names_of(self.stream[text[i].at : text[i].at + text[i].size])
            if names is None:
                return False
            self.types.append(names)
        return True

    def skip(self, Py_ssize_t rows):
        """Pass over so many rows, or all that are left; returns how many."""
        cdef Py_ssize_t passed = 0
        while passed < rows and self.position < self.rows:
            self.advance()
            passed += 1
        return passed

    cdef void first(self) noexcept:
        """To the first row."""
        self.chunk = chunk_of(&self.machine, top(&self.machine))
        self.rows = self.chunk.items
        self.node = children_of(&self.machine, self.chunk)
        self.within = 0

    cdef void advance(self) noexcept:
        """To the next row."""
        self.position += 1
        self.within += 1
        if self.node.kind == FLOATS and self.within < self.node.count:
            return
        self.within = 0
        self.node += 1
        self.follow()

    cdef void follow(self) noexcept nogil:
        """From behind a chunk's last node to the next chunk."""
        # Only the first chunk can be empty, and then it is the only one.
        if self.node == children_of(&self.machine, self.chunk) + self.chunk.nodes and self.chunk.next >= 0:
            self.chunk = <Chunk*>self.machine.chunks.data + self.chunk.next
            self.node = children_of(&self.machine, self.chunk)
