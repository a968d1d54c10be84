"""Pickled batches of rows, read without unpickling them.

Spark keeps the rows of a stored RDD as pickled lists. ``StreamBatch`` is a pickle machine that makes small structs, which say where
in the stream each value lies, instead of Python objects; ``_stream_pack.pyx`` writes those into a slot.

It never imports or calls what a stream names. It knows the functions by which numpy's arrays, scalars and dtypes and pyspark's rows
are pickled, those of ``DataFrame.rdd`` by the JVM, too; a stream with any other function, or with anything else that it does not know, it refuses as a whole, since such a call
might change values that were read before. The caller then unpickles the batch. The opcodes are those of CPython's
``Lib/pickletools.py``; strings and bytes are not copied.
"""

import pickle

from tfos_fast._rowtype import names_of

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint16_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy, memset, strlen

from tfos_fast._floats cimport run_of_floats
from tfos_fast._nodes cimport (
    ALIKE, ARRAY, Arena, Array, BINBYTES8, BINUNICODE8, BYTEARRAY, BYTEARRAY8, BYTES, Chunk, DICT, DTYPE, Dtype, FALSE, FLOATS,
    FRAME, FUNCTION, INT, JVM_ROW, LIST, LONG1, LONG4, MAX_ARRAY_DIMS, MEMOIZE, Machine, NEWFALSE, NEWTRUE, NOTHING, Node, OPAQUE,
    PROTO, ROW, ROW_MAKER, ROW_TYPE, SCALAR, SHORT_BINUNICODE, STACK_GLOBAL, TEXT, TRUE, TUPLE, TUPLE1, TUPLE2, TUPLE3, Text,
    children_of, chunk_of, little, signed_little,
)
from tfos_fast._pattern cimport Pattern, end_of_row, learn, suits
from tfos_fast._values cimport (
    BOOL, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, NO_CODE, UINT8, UINT16, UINT32, UINT64,
)

cdef extern from *:
    """
    #define tfos_prefetch(where) __builtin_prefetch(where)
    """
    void tfos_prefetch(const void* where) noexcept nogil

cdef enum:
    LARGE = 256  # bytes; what lies behind less is read ahead by the processor itself

cdef enum Outcome:
    GO_ON
    DONE
    UNKNOWN
    NO_MEMORY
    WHOLE           # it must be parsed without the pattern

cdef enum Function:
    FROM_BUFFER
    RECONSTRUCT
    NUMPY_SCALAR
    NUMPY_DTYPE
    NDARRAY
    CREATE_ROW
    PARSE_TYPE
    ROW_CONVERTER

cdef enum:
    MAX_COUNT = 0x7FFFFFFF
    MAX_TYPES = 64  # of the JVM's rows in one batch, which has one or two

cdef struct Name:
    const char* module
    const char* name
    int function

cdef enum:
    FUNCTIONS = 11

cdef Name[FUNCTIONS] NAMES
NAMES[0] = Name(b"numpy._core.numeric", b"_frombuffer", FROM_BUFFER)
NAMES[1] = Name(b"numpy.core.numeric", b"_frombuffer", FROM_BUFFER)
NAMES[2] = Name(b"numpy._core.multiarray", b"_reconstruct", RECONSTRUCT)
NAMES[3] = Name(b"numpy.core.multiarray", b"_reconstruct", RECONSTRUCT)
NAMES[4] = Name(b"numpy._core.multiarray", b"scalar", NUMPY_SCALAR)
NAMES[5] = Name(b"numpy.core.multiarray", b"scalar", NUMPY_SCALAR)
NAMES[6] = Name(b"numpy", b"dtype", NUMPY_DTYPE)
NAMES[7] = Name(b"numpy", b"ndarray", NDARRAY)
NAMES[8] = Name(b"pyspark.sql.types", b"_create_row", CREATE_ROW)
NAMES[9] = Name(b"pyspark.sql.types", b"_parse_datatype_json_string", PARSE_TYPE)
NAMES[10] = Name(b"pyspark.sql.types", b"_create_row_inbound_converter", ROW_CONVERTER)


# ---- arenas ------------------------------------------------------------------------------------------------------------------

cdef void* grow(Arena* arena, Py_ssize_t more, size_t size) noexcept nogil:
    """Room for so many elements more; gives the first of them, or NULL. What was there may move."""
    cdef Py_ssize_t room
    cdef char* data
    if arena.used + more > arena.room:
        room = max(2 * arena.room, arena.used + more, 64)
        data = <char*>realloc(arena.data, room * size)
        if data is NULL:
            return NULL
        arena.data = data
        arena.room = room
    return arena.data + arena.used * size


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
        free(self.machine.stack.data)
        free(self.machine.marks.data)
        free(self.machine.memo.data)
        free(self.machine.children.data)
        free(self.machine.chunks.data)
        free(self.machine.arrays.data)
        free(self.machine.dtypes.data)
        free(self.machine.types.data)

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
        # Only the first chunk can be empty, and then it is the only one.
        if self.node == children_of(&self.machine, self.chunk) + self.chunk.nodes and self.chunk.next >= 0:
            self.chunk = <Chunk*>self.machine.chunks.data + self.chunk.next
            self.node = children_of(&self.machine, self.chunk)


cdef void reset(Machine* m) noexcept nogil:
    m.stack.used = m.marks.used = m.memo.used = m.children.used = m.chunks.used = m.arrays.used = m.dtypes.used = m.types.used = 0
    m.large = 0
    m.solid = -1
    m.renumbered = False
    memset(m.starts, 0, sizeof(m.starts))


# ---- the stack ---------------------------------------------------------------------------------------------------------------


cdef inline int push(Machine* m, int kind, Py_ssize_t count, int64_t at) noexcept nogil:
    cdef Node* node = <Node*>grow(&m.stack, 1, sizeof(Node))
    if node is NULL:
        return NO_MEMORY
    node.kind = kind
    node.count = <uint32_t>count
    node.at = at
    m.stack.used += 1
    return GO_ON


cdef inline Node* top(Machine* m) noexcept nogil:
    return <Node*>m.stack.data + m.stack.used - 1


cdef Py_ssize_t floor(Machine* m) noexcept nogil:
    """What may be popped lies above this."""
    return (<Py_ssize_t*>m.marks.data)[m.marks.used - 1] if m.marks.used else 0


cdef int pop_mark(Machine* m, Py_ssize_t* base) noexcept nogil:
    if m.marks.used == 0:
        return UNKNOWN
    m.marks.used -= 1
    base[0] = (<Py_ssize_t*>m.marks.data)[m.marks.used]
    return GO_ON


cdef int gather(Machine* m, Py_ssize_t base, Chunk* out) noexcept nogil:
    """Move what lies on the stack from `base` on to the children."""
    cdef Py_ssize_t count = m.stack.used - base
    cdef Py_ssize_t i
    cdef Node* source
    cdef void* target
    out.start = m.children.used
    out.nodes = count
    out.next = -1
    out.last = -1
    out.items = 0
    if count == 0:
        return GO_ON
    source = <Node*>m.stack.data + base
    target = grow(&m.children, count, sizeof(Node))
    if target is NULL:
        return NO_MEMORY
    memcpy(target, source, count * sizeof(Node))
    for i in range(count):
        out.items += source[i].count if source[i].kind == FLOATS else 1
    m.children.used += count
    m.stack.used = base
    return GO_ON


cdef int split(Machine* m, Py_ssize_t items, Py_ssize_t* base) noexcept nogil:
    """Find where the last few items begin, cutting a run of floats in two if they begin inside it."""
    cdef Py_ssize_t at = m.stack.used, left = items, bottom = floor(m), count
    cdef Node* node
    while left:
        if at <= bottom:
            return UNKNOWN
        at -= 1
        node = <Node*>m.stack.data + at
        count = node.count if node.kind == FLOATS else 1
        if count > left:
            if grow(&m.stack, 1, sizeof(Node)) is NULL:
                return NO_MEMORY
            node = <Node*>m.stack.data + at
            memcpy_backwards(node + 2, node + 1, m.stack.used - at - 1)
            m.stack.used += 1
            node[1] = node[0]
            node[0].count = <uint32_t>(count - left)
            node[1].count = <uint32_t>left
            node[1].at = node[0].at + 9 * (count - left)
            at += 1
            left = 0
        else:
            left -= count
    base[0] = at
    return GO_ON


cdef int push_chunk(Machine* m, int kind, Chunk* content) noexcept nogil:
    cdef Chunk* chunk = <Chunk*>grow(&m.chunks, 1, sizeof(Chunk))
    if chunk is NULL:
        return NO_MEMORY
    chunk[0] = content[0]
    chunk.last = m.chunks.used
    m.chunks.used += 1
    return push(m, kind, 1, m.chunks.used - 1)


cdef int tuple_of(Machine* m, Py_ssize_t base) noexcept nogil:
    cdef Chunk content
    cdef int outcome = gather(m, base, &content)
    return outcome if outcome != GO_ON else push_chunk(m, TUPLE, &content)


cdef int extend(Machine* m, Py_ssize_t base, int kind) noexcept nogil:
    """Append what lies on the stack from `base` on to the list or dict below it."""
    cdef Chunk content
    cdef Chunk* head
    cdef Py_ssize_t at
    cdef int outcome
    if base <= floor(m) or (<Node*>m.stack.data)[base - 1].kind != kind:
        return UNKNOWN
    outcome = gather(m, base, &content)
    if outcome != GO_ON:
        return outcome
    if kind == DICT and content.items % 2:
        return UNKNOWN
    if content.nodes == 0:
        return GO_ON
    if grow(&m.chunks, 1, sizeof(Chunk)) is NULL:
        return NO_MEMORY
    at = (<Node*>m.stack.data)[base - 1].at
    head = <Chunk*>m.chunks.data + at
    if head.nodes == 0 and head.next < 0:  # its first items: no further chunk is needed
        head.start = content.start
        head.nodes = content.nodes
    else:
        (<Chunk*>m.chunks.data)[m.chunks.used] = content
        (<Chunk*>m.chunks.data)[head.last].next = m.chunks.used
        head.last = m.chunks.used
        m.chunks.used += 1
    head.items += content.items
    return GO_ON


cdef int remember(Machine* m, Py_ssize_t number) noexcept nogil:
    # Numbers come in order, so that MEMOIZE, which counts what was remembered, means the same here.
    if m.stack.used <= floor(m) or number > m.memo.used or top(m).kind == FLOATS:
        return UNKNOWN
    if m.solid >= 0:  # rows that are only compared leave gaps: from here on it is but counted
        if number < m.memo.used:
            return WHOLE
        m.memo.used += 1
        return GO_ON
    if number == m.memo.used:
        if grow(&m.memo, 1, sizeof(Node)) is NULL:
            return NO_MEMORY
        m.memo.used += 1
    (<Node*>m.memo.data)[number] = top(m)[0]
    return GO_ON


cdef int recall(Machine* m, Py_ssize_t number) noexcept nogil:
    cdef Node node
    if number >= m.memo.used:
        return UNKNOWN
    if m.solid >= 0 and number >= m.solid:
        return WHOLE
    node = (<Node*>m.memo.data)[number]
    return push(m, node.kind, node.count, node.at)


# ---- functions ---------------------------------------------------------------------------------------------------------------


cdef int function(Machine* m, const uint8_t* module, Py_ssize_t module_size, const uint8_t* name, Py_ssize_t name_size) noexcept nogil:
    cdef int i
    for i in range(FUNCTIONS):
        if (
            <Py_ssize_t>strlen(NAMES[i].module) == module_size
            and <Py_ssize_t>strlen(NAMES[i].name) == name_size
            and memcmp(NAMES[i].module, module, module_size) == 0
            and memcmp(NAMES[i].name, name, name_size) == 0
        ):
            return push(m, FUNCTION, 1, NAMES[i].function)
    return UNKNOWN


cdef int stack_global(Machine* m) noexcept nogil:
    cdef Node module, name
    if m.stack.used < floor(m) + 2:
        return UNKNOWN
    module = (top(m) - 1)[0]
    name = top(m)[0]
    if module.kind != TEXT or name.kind != TEXT:
        return UNKNOWN
    m.stack.used -= 2
    return function(m, m.bytes + module.at, module.count, m.bytes + name.at, name.count)


cdef int reduce(Machine* m) noexcept nogil:
    cdef Node called, given
    cdef Chunk* arguments
    cdef Node* args
    if m.stack.used < floor(m) + 2:
        return UNKNOWN
    called = (top(m) - 1)[0]
    given = top(m)[0]
    if given.kind != TUPLE or (called.kind != FUNCTION and called.kind != ROW_MAKER):
        return UNKNOWN
    m.stack.used -= 2
    if called.kind == ROW_MAKER:
        return push(m, JVM_ROW, called.at, given.at)
    arguments = chunk_of(m, &given)
    args = children_of(m, arguments)
    if arguments.nodes != arguments.items:
        return UNKNOWN  # floats: none of these functions takes any
    if called.at == NUMPY_DTYPE:
        return new_dtype(m, args, arguments.nodes)
    if called.at == FROM_BUFFER:
        return from_buffer(m, args, arguments.nodes)
    if called.at == RECONSTRUCT:
        return new_array(m, args, arguments.nodes)
    if called.at == NUMPY_SCALAR:
        return numpy_scalar(m, args, arguments.nodes)
    if called.at == CREATE_ROW:
        if arguments.nodes != 2 or args[0].kind != LIST or args[1].kind != TUPLE:
            return UNKNOWN
        return push(m, ROW, 1, given.at)
    if called.at == PARSE_TYPE:
        return row_type(m, args, arguments.nodes)
    if called.at == ROW_CONVERTER:
        return push(m, ROW_MAKER, 1, args[0].at) if arguments.nodes == 1 and args[0].kind == ROW_TYPE else UNKNOWN
    return UNKNOWN


cdef int row_type(Machine* m, Node* args, Py_ssize_t count) noexcept nogil:
    """``_parse_datatype_json_string(text)``; the text is looked at when the stream has been read."""
    cdef Text* text
    if count != 1 or args[0].kind != TEXT or m.types.used == MAX_TYPES:
        return UNKNOWN
    text = <Text*>grow(&m.types, 1, sizeof(Text))
    if text is NULL:
        return NO_MEMORY
    text.at = args[0].at
    text.size = args[0].count
    m.types.used += 1
    return push(m, ROW_TYPE, 1, m.types.used - 1)


cdef int new_dtype(Machine* m, Node* args, Py_ssize_t count) noexcept nogil:
    """``numpy.dtype('f4', False, True)``; its state comes later."""
    cdef Dtype* dtype
    if count != 3 or args[0].kind != TEXT or args[1].kind != FALSE or args[2].kind != TRUE:
        return UNKNOWN
    dtype = <Dtype*>grow(&m.dtypes, 1, sizeof(Dtype))
    if dtype is NULL:
        return NO_MEMORY
    dtype.whole = False
    dtype.code = dtype_code(m.bytes + args[0].at, args[0].count, &dtype.itemsize)
    m.dtypes.used += 1
    return push(m, DTYPE, 1, m.dtypes.used - 1)


cdef Dtype* known_dtype(Machine* m, Node* node) noexcept nogil:
    """A dtype that is whole and one of ours, else NULL."""
    cdef Dtype* dtype
    if node.kind != DTYPE:
        return NULL
    dtype = <Dtype*>m.dtypes.data + node.at
    return dtype if dtype.whole and dtype.code != NO_CODE else NULL


cdef Array* add_array(Machine* m) noexcept nogil:
    cdef Array* array = <Array*>grow(&m.arrays, 1, sizeof(Array))
    if array is not NULL:
        memset(array, 0, sizeof(Array))
        m.arrays.used += 1
    return array


cdef int from_buffer(Machine* m, Node* args, Py_ssize_t count) noexcept nogil:
    """``_frombuffer(bytes, dtype, shape, 'C')``."""
    cdef Dtype* dtype
    cdef Array* array
    if count != 4 or args[1].kind != DTYPE or args[2].kind != TUPLE or args[3].kind != TEXT:
        return UNKNOWN
    if args[0].kind != BYTEARRAY and args[0].kind != BYTES:
        return UNKNOWN
    dtype = known_dtype(m, &args[1])
    array = add_array(m)
    if array is NULL:
        return NO_MEMORY
    if (
        dtype is NULL
        or not fill_array(m, array, dtype, &args[2], &args[0])
        or args[3].count != 1
        or not (m.bytes[args[3].at] == b"C" or (m.bytes[args[3].at] == b"F" and array.dims < 2))
    ):
        return push(m, OPAQUE, 1, 0)
    return push(m, ARRAY, 1, m.arrays.used - 1)


cdef bint fill_array(Machine* m, Array* array, Dtype* dtype, Node* shape, Node* data) noexcept nogil:
    cdef Chunk* sizes = chunk_of(m, shape)
    cdef Node* size = children_of(m, sizes)
    cdef Py_ssize_t i, total = dtype.itemsize
    if sizes.nodes != sizes.items or sizes.nodes > MAX_ARRAY_DIMS:
        return False
    for i in range(sizes.nodes):
        if size[i].kind != INT or size[i].at < 0 or size[i].at > MAX_COUNT:
            return False
        array.shape[i] = size[i].at
        if total and array.shape[i] > MAX_COUNT // total:
            return False
        total *= array.shape[i]
    if total != <Py_ssize_t>data.count:
        return False
    array.code = dtype.code
    array.dims = <int>sizes.nodes
    array.data = data.at
    array.size = total
    array.whole = True
    return True


cdef int new_array(Machine* m, Node* args, Py_ssize_t count) noexcept nogil:
    """``_reconstruct(ndarray, (0,), b'b')``; everything else comes with its state."""
    if count != 3 or args[0].kind != FUNCTION or args[0].at != NDARRAY or args[1].kind != TUPLE or args[2].kind != BYTES:
        return UNKNOWN
    return NO_MEMORY if add_array(m) is NULL else push(m, ARRAY, 1, m.arrays.used - 1)


cdef int numpy_scalar(Machine* m, Node* args, Py_ssize_t count) noexcept nogil:
    """``scalar(dtype, bytes)``."""
    cdef Dtype* dtype
    cdef Array* array
    if count != 2 or args[0].kind != DTYPE:
        return UNKNOWN
    dtype = known_dtype(m, &args[0])
    if dtype is NULL or args[1].kind != BYTES or <Py_ssize_t>args[1].count != dtype.itemsize:
        return push(m, OPAQUE, 1, 0)
    array = add_array(m)
    if array is NULL:
        return NO_MEMORY
    array.code = dtype.code
    array.data = args[1].at
    array.size = dtype.itemsize
    array.whole = True
    return push(m, SCALAR, 1, m.arrays.used - 1)


cdef int build(Machine* m) noexcept nogil:
    """The state of a dtype or an array, which must be the first that it gets."""
    cdef Node target, state
    cdef Chunk* chunk
    cdef Node* parts
    cdef Dtype* dtype
    cdef Array* array
    if m.stack.used < floor(m) + 2:
        return UNKNOWN
    target = (top(m) - 1)[0]
    state = top(m)[0]
    if state.kind != TUPLE:
        return UNKNOWN
    m.stack.used -= 1
    chunk = chunk_of(m, &state)
    parts = children_of(m, chunk)
    if chunk.nodes != chunk.items:
        return UNKNOWN
    if target.kind == DTYPE:
        # (3, byte order, subarray, names, fields, itemsize, alignment, flags)
        dtype = <Dtype*>m.dtypes.data + target.at
        if dtype.whole or chunk.nodes != 8 or parts[0].kind != INT or parts[1].kind != TEXT or parts[1].count != 1:
            return UNKNOWN
        if parts[2].kind != NOTHING or parts[3].kind != NOTHING or parts[4].kind != NOTHING or parts[7].kind != INT:
            return UNKNOWN
        dtype.whole = True
        if (m.bytes[parts[1].at] != b"<" and m.bytes[parts[1].at] != b"|") or parts[0].at != 3 or parts[7].at != 0:
            dtype.code = NO_CODE
        return GO_ON
    if target.kind == ARRAY:
        # (1, shape, dtype, Fortran order, bytes)
        array = <Array*>m.arrays.data + target.at
        if array.whole or chunk.nodes != 5 or parts[0].kind != INT or parts[0].at != 1 or parts[1].kind != TUPLE:
            return UNKNOWN
        dtype = known_dtype(m, &parts[2])
        if dtype is NULL or parts[3].kind != FALSE or parts[4].kind != BYTES:
            return UNKNOWN
        return GO_ON if fill_array(m, array, dtype, &parts[1], &parts[4]) else UNKNOWN
    return UNKNOWN


# ---- the machine -------------------------------------------------------------------------------------------------------------


cdef int data(Machine* m, int kind, Py_ssize_t* at, int width) noexcept nogil:
    """Text or bytes behind a length of so many bytes."""
    cdef uint64_t count
    cdef Py_ssize_t ahead
    if m.size - at[0] < width:
        return UNKNOWN
    count = little(m.bytes + at[0], width)
    at[0] += width
    if count > <uint64_t>(m.size - at[0]) or count > MAX_COUNT:
        return UNKNOWN
    at[0] += <Py_ssize_t>count
    if count >= LARGE:
        # Rows of one kind: what follows the data of the next but one lies two strides ahead, in memory not yet read.
        ahead = at[0] + 2 * (at[0] - m.large)
        if ahead < m.size:
            tfos_prefetch(m.bytes + ahead)
            tfos_prefetch(m.bytes + ahead + 64)
        m.large = at[0]
    return push(m, kind, <Py_ssize_t>count, at[0] - <Py_ssize_t>count)


cdef int big_int(Machine* m, Py_ssize_t* at, int width) noexcept nogil:
    cdef Py_ssize_t opcode = at[0] - 1
    cdef uint64_t count
    if m.size - at[0] < width:
        return UNKNOWN
    count = little(m.bytes + at[0], width)
    at[0] += width
    if count > <uint64_t>(m.size - at[0]):
        return UNKNOWN
    at[0] += <Py_ssize_t>count
    if count > 8:
        return push(m, OPAQUE, 1, 0)
    return push(m, INT, opcode, signed_little(m.bytes + at[0] - count, <int>count))


cdef int global_lines(Machine* m, Py_ssize_t* at) noexcept nogil:
    cdef const uint8_t* module = m.bytes + at[0]
    cdef const uint8_t* name
    cdef const uint8_t* end
    name = <const uint8_t*>memchr(module, c"\n", m.size - at[0])
    if name is NULL:
        return UNKNOWN
    name += 1
    end = <const uint8_t*>memchr(name, c"\n", m.bytes + m.size - name)
    if end is NULL:
        return UNKNOWN
    at[0] = end + 1 - m.bytes
    return function(m, module, name - 1 - module, name, end - name)


cdef int parse(Machine* m, Pattern* pattern) noexcept nogil:
    """The whole stream; with a pattern, rows that follow it are compared only, and if none does it can be learnt anew."""
    cdef Py_ssize_t at = 0, end
    cdef int outcome = GO_ON
    cdef bint useful = pattern is not NULL and pattern.fields > 0
    while outcome == GO_ON:
        if at >= m.size:
            return UNKNOWN
        if pattern is not NULL and m.marks.used == 1:
            if useful:
                end = end_of_row(pattern, m.bytes, at, m.size)
                if end >= 0:
                    if m.solid < 0:
                        useful = not m.renumbered and suits(pattern, m)
                        if not useful:
                            continue
                        m.solid = m.memo.used
                    m.memo.used += pattern.remembered
                    outcome = push(m, ALIKE, 1, at)
                    at = end
                    continue
            if m.solid < 0 and 0 < m.stack.used < 4 and in_first_rows(m):
                m.starts[m.stack.used] = at
        outcome = step(m, &at)
    if outcome != DONE:
        return outcome
    if at != m.size or m.stack.used != 1 or m.marks.used:
        return UNKNOWN
    return DONE


cdef bint in_first_rows(Machine* m) noexcept nogil:
    """Whether what is on the stack are the first items of a list that lies below everything."""
    cdef Node* bottom = <Node*>m.stack.data
    return (<Py_ssize_t*>m.marks.data)[0] == 1 and bottom.kind == LIST and chunk_of(m, bottom).nodes == 0


cdef int step(Machine* m, Py_ssize_t* where) noexcept nogil:
    """One opcode (or a run of floats)."""
    cdef Py_ssize_t at = where[0] + 1
    cdef const uint8_t* p = m.bytes + at
    cdef Py_ssize_t left = m.size - at, base = 0, count
    cdef int code = m.bytes[at - 1], outcome
    cdef Chunk empty
    # How many bytes of argument it has: they are there, or else the stream ends here.
    cdef int argument = 0
    if code == c"G" or code == FRAME:
        argument = 8
    elif code == c"J" or code == c"r" or code == c"j":
        argument = 4
    elif code == c"M":
        argument = 2
    elif code == c"K" or code == PROTO or code == c"q" or code == c"h":
        argument = 1
    if left < argument:
        return UNKNOWN
    where[0] = at + argument

    if code == c"G":
        count = run_of_floats(p - 1, min(left + 1, <Py_ssize_t>MAX_COUNT) // 9)
        where[0] = at + 9 * count - 1
        return push(m, FLOATS, count, at - 1)
    elif code == c"K":
        return push(m, INT, at - 1, p[0])
    elif code == c"M":
        return push(m, INT, at - 1, <int64_t>little(p, 2))
    elif code == c"J":
        return push(m, INT, at - 1, <int32_t>little(p, 4))
    elif code == MEMOIZE:
        return remember(m, m.memo.used)
    elif code == c"h":
        return recall(m, p[0])
    elif code == c"j":
        return recall(m, <Py_ssize_t>little(p, 4))
    elif code == c"q" or code == c"r":
        m.renumbered = True
        return remember(m, p[0] if code == c"q" else <Py_ssize_t>little(p, 4))
    elif code == c"(":
        if grow(&m.marks, 1, sizeof(Py_ssize_t)) is NULL:
            return NO_MEMORY
        (<Py_ssize_t*>m.marks.data)[m.marks.used] = m.stack.used
        m.marks.used += 1
        return GO_ON
    elif code == TUPLE1 or code == TUPLE2 or code == TUPLE3:
        outcome = split(m, code - TUPLE1 + 1, &base)
        return outcome if outcome != GO_ON else tuple_of(m, base)
    elif code == c"t":
        outcome = pop_mark(m, &base)
        return outcome if outcome != GO_ON else tuple_of(m, base)
    elif code == c"]" or code == c"}" or code == c")":
        memset(&empty, 0, sizeof(Chunk))
        empty.next = -1
        return push_chunk(m, LIST if code == c"]" else DICT if code == c"}" else TUPLE, &empty)
    elif code == c"e" or code == c"u":
        outcome = pop_mark(m, &base)
        return outcome if outcome != GO_ON else extend(m, base, LIST if code == c"e" else DICT)
    elif code == c"a" or code == c"s":
        outcome = split(m, 1 if code == c"a" else 2, &base)
        return outcome if outcome != GO_ON else extend(m, base, LIST if code == c"a" else DICT)
    elif code == c"N":
        return push(m, NOTHING, 1, 0)
    elif code == NEWTRUE:
        return push(m, TRUE, 1, at - 1)
    elif code == NEWFALSE:
        return push(m, FALSE, 1, at - 1)
    elif code == LONG1 or code == LONG4:
        return big_int(m, where, 1 if code == LONG1 else 4)
    elif code == SHORT_BINUNICODE:
        return data(m, TEXT, where, 1)
    elif code == c"X":
        return data(m, TEXT, where, 4)
    elif code == BINUNICODE8:
        return data(m, TEXT, where, 8)
    elif code == c"C":
        return data(m, BYTES, where, 1)
    elif code == c"B":
        return data(m, BYTES, where, 4)
    elif code == BINBYTES8:
        return data(m, BYTES, where, 8)
    elif code == BYTEARRAY8:
        return data(m, BYTEARRAY, where, 8)
    elif code == c"c":
        return global_lines(m, where)
    elif code == STACK_GLOBAL:
        return stack_global(m)
    elif code == c"R":
        return reduce(m)
    elif code == c"b":
        return build(m)
    elif code == FRAME:
        return GO_ON
    elif code == PROTO:
        return GO_ON if p[0] <= 5 else UNKNOWN
    elif code == c".":
        return DONE
    return UNKNOWN


cdef void memcpy_backwards(Node* target, Node* source, Py_ssize_t count) noexcept nogil:
    """Shift nodes up by one: from the last to the first, since the places overlap."""
    cdef Py_ssize_t i
    for i in range(count - 1, -1, -1):
        target[i] = source[i]


cdef int dtype_code(const uint8_t* name, Py_ssize_t size, Py_ssize_t* itemsize) noexcept nogil:
    """The element type of ``numpy.dtype(name)`` for names such as 'f4'."""
    cdef int kind, width
    itemsize[0] = 0
    if size != 2:
        return NO_CODE
    kind = name[0]
    width = name[1] - c"0"
    itemsize[0] = width
    if kind == c"f":
        return FLOAT32 if width == 4 else FLOAT64 if width == 8 else NO_CODE
    if kind == c"i":
        return INT8 if width == 1 else INT16 if width == 2 else INT32 if width == 4 else INT64 if width == 8 else NO_CODE
    if kind == c"u":
        return UINT8 if width == 1 else UINT16 if width == 2 else UINT32 if width == 4 else UINT64 if width == 8 else NO_CODE
    if kind == c"b" and width == 1:
        return BOOL
    return NO_CODE
