"""What a pickled batch holds, parsed but not unpickled: what the values are and where their bytes lie in the stream."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef enum NodeKind:
    NOTHING         # None
    FALSE           # at: its opcode, in the stream
    TRUE
    INT             # at: the value; count: its opcode, in the stream
    FLOATS          # count floats in a row; at: the first one's opcode, the others follow every 9 bytes
    TEXT            # count bytes of UTF-8 (or surrogates, which are none) at `at`
    BYTES
    BYTEARRAY
    LIST            # at: its first Chunk
    TUPLE
    DICT            # key, value, key, value, ...
    ROW             # pyspark's; at: its Chunk of two: the names, the values
    ARRAY           # a C-contiguous numpy array of one of the types with a loop; at: its Array
    SCALAR          # a numpy scalar of such a type
    DTYPE           # at: its Dtype
    FUNCTION        # at: which one of those that are known
    ROW_TYPE        # what the JVM says of its rows; at: its Text
    ROW_MAKER       # the function made of it; at: the same
    JVM_ROW         # at: its Chunk of values; count: its Text
    OPAQUE          # a value of no consequence to anything else, which only the unpickler can make
    ALIKE           # a row that follows the pattern; at: where it begins

cdef struct Node:
    int32_t kind
    uint32_t count
    int64_t at

cdef struct Chunk:
    Py_ssize_t start                        # first of its nodes among the children
    Py_ssize_t nodes
    Py_ssize_t next                         # chunk of the same list or dict, -1: none
    Py_ssize_t last                         # of the first chunk only: the last chunk,
    Py_ssize_t items                        # and how many items there are in all

cdef enum:
    MAX_ARRAY_DIMS = 16
    MAX_COUNT = 0x7FFFFFFF                  # of bytes or values in one node

cdef enum Opcode:
    PROTO = 0x80
    TUPLE1 = 0x85
    TUPLE2 = 0x86
    TUPLE3 = 0x87
    NEWTRUE = 0x88
    NEWFALSE = 0x89
    LONG1 = 0x8A
    LONG4 = 0x8B
    SHORT_BINUNICODE = 0x8C
    BINUNICODE8 = 0x8D
    BINBYTES8 = 0x8E
    STACK_GLOBAL = 0x93
    MEMOIZE = 0x94
    FRAME = 0x95
    BYTEARRAY8 = 0x96

cdef struct Array:
    int code                                # of _values.Code
    int dims
    Py_ssize_t shape[MAX_ARRAY_DIMS]
    Py_ssize_t data                         # offset in the stream
    Py_ssize_t size                         # bytes
    bint whole                              # all of this is known

cdef struct Dtype:
    int code                                # of _values.Code; NO_CODE: none of ours
    Py_ssize_t itemsize
    bint whole

cdef struct Text:
    Py_ssize_t at                           # offset in the stream
    Py_ssize_t size

cdef struct Arena:
    char* data
    Py_ssize_t used                         # in elements
    Py_ssize_t room

cdef struct Machine:
    const uint8_t* bytes                    # the stream
    Py_ssize_t size
    Py_ssize_t large                        # where the last large piece of data ended
    Py_ssize_t solid                        # what was remembered before the first row that was only compared; -1: there is none
    bint renumbered                         # something was remembered by a number of its own
    Py_ssize_t starts[4]                    # where the stack was last so high, in the list of rows: [2]: the second row's begin
    Arena stack                             # of Node
    Arena marks                             # of Py_ssize_t
    Arena memo                              # of Node
    Arena children                          # of Node
    Arena chunks                            # of Chunk
    Arena arrays                            # of Array
    Arena dtypes                            # of Dtype
    Arena types                             # of Text: the types of the JVM's rows

cdef inline Chunk* chunk_of(Machine* m, Node* node) noexcept nogil:
    return <Chunk*>m.chunks.data + node.at

cdef inline Node* children_of(Machine* m, Chunk* chunk) noexcept nogil:
    return <Node*>m.children.data + chunk.start

cdef inline uint64_t little(const uint8_t* p, int size) noexcept nogil:
    cdef uint64_t value = 0
    memcpy(&value, p, size)  # this package is for little-endian machines only: Spark's and TensorFlow's are
    return value

cdef inline int64_t signed_little(const uint8_t* p, int size) noexcept nogil:
    cdef uint64_t value = little(p, size)
    if size and size < 8 and value >> (8 * size - 1):
        value |= ~<uint64_t>0 << (8 * size)
    return <int64_t>value
