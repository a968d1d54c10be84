"""The functions that a stream may name, and what comes of their calls: numpy's arrays, scalars and dtypes, pyspark's rows.

These are the opcodes GLOBAL, STACK_GLOBAL, REDUCE and BUILD. Nothing is imported or called: a function is a number, and what it would
return is a struct. Any other function, or other arguments, and the stream is unpickled.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp, memset, strlen

from tfos_fast.native.pickled.parsed cimport (
    ARRAY, Array, BYTEARRAY, BYTES, Chunk, DTYPE, Dtype, FALSE, FUNCTION, INT, JVM_ROW, LIST, MAX_ARRAY_DIMS, MAX_COUNT, Machine,
    NOTHING, Node, OPAQUE, ROW, ROW_MAKER, ROW_TYPE, SCALAR, TEXT, TRUE, TUPLE, Text, children_of, chunk_of,
)
from tfos_fast.native.pickled.vm_stack cimport GO_ON, NO_MEMORY, UNKNOWN, floor, grow, push, top
from tfos_fast.native.py_numbers cimport (
    BOOL, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, NO_CODE, UINT8, UINT16, UINT32, UINT64,
)

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


# ---- naming ------------------------------------------------------------------------------------------------------------------


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


# ---- calling -----------------------------------------------------------------------------------------------------------------


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


# ---- arrays and dtypes -------------------------------------------------------------------------------------------------------


cdef Dtype* known_dtype(Machine* m, Node* node) noexcept nogil:
    """A dtype that is whole and one of ours, else NULL."""
    cdef Dtype* dtype
    if node.kind != DTYPE:
        return NULL
    dtype = <Dtype*>m.dtypes.data + node.at
    return dtype if dtype.whole and dtype.code != NO_CODE else NULL


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


cdef Array* add_array(Machine* m) noexcept nogil:
    cdef Array* array = <Array*>grow(&m.arrays, 1, sizeof(Array))
    if array is not NULL:
        memset(array, 0, sizeof(Array))
        m.arrays.used += 1
    return array


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
