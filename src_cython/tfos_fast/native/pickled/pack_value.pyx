"""One value of a parsed pickle stream into a column of a slot, exactly as ``native/column_writer.pyx`` would write the object.

What cannot be said of here (a value that numpy has to look at, an object column) is UNFIT: the packer gets the row unpickled.
"""

from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from tfos_fast.native.column_writer cimport (
    ANY, ARRAY as ARRAY_COLUMN, BYTEARRAY as BYTEARRAY_COLUMN, BYTES as BYTES_COLUMN, ColumnState, MAX_DIMS, NESTED, NO_ROOM, NUMBER,
    OK, RAGGED as RAGGED_COLUMN, SCALAR as SCALAR_COLUMN, STRING, Slot, UNFIT, UNUSED, put_bytes, put_null,
)
from tfos_fast.native.pickled.parsed cimport (
    ARRAY, Array, BYTEARRAY, BYTES, Chunk, FLOATS, LIST, Machine, NOTHING, Node, SCALAR, TEXT, TUPLE, children_of, chunk_of,
)
from tfos_fast.native.pickled.pickled_numbers cimport cast_bytes, put_numbers
from tfos_fast.native.py_numbers cimport FLOAT32, PyList_Type, PyTuple_Type


cdef int put_value(ColumnState* column, Machine* m, Node* node, Py_ssize_t within, Slot* slot, Py_ssize_t row) except -1:
    cdef int outcome
    if column.nulls and node.kind == NOTHING:
        return put_null(column, slot, row)
    outcome = put_something(column, m, node, within, slot, row)
    if column.mask is not NULL:
        column.mask[row] = 1
    return outcome


cdef int put_something(
    ColumnState* column, Machine* m, Node* node, Py_ssize_t within, Slot* slot, Py_ssize_t row
) except -1:
    cdef char* out = column.region + row * column.row_bytes
    cdef int kind = column.kind
    cdef Array* array
    if column.raw:
        if (node.kind != BYTES and node.kind != BYTEARRAY) or <Py_ssize_t>node.count != column.row_bytes:
            return UNFIT
        memcpy(out, m.bytes + node.at, column.row_bytes)
        return OK
    if kind == ANY or kind == NUMBER or kind == NESTED:
        if node.kind == ARRAY:
            return OK if kind == ANY and put_array(column, m, node, out) else UNFIT
        if column.dims == 0:
            if node.kind == SCALAR:
                return OK if kind == ANY and put_scalar(column, m, node, out) else UNFIT
            return OK if put_numbers(column.code, out, 0, m.bytes, node, within, 1, column.takes) else UNFIT
        return OK if column.dims <= MAX_DIMS and put_nested(column, m, node, 0, out) else UNFIT
    if kind == ARRAY_COLUMN:
        return OK if node.kind == ARRAY and put_array(column, m, node, out) else UNFIT
    if kind == SCALAR_COLUMN:
        return OK if node.kind == SCALAR and put_scalar(column, m, node, out) else UNFIT
    if kind == RAGGED_COLUMN:
        return put_ragged(column, m, node, slot, <uint32_t*>out)
    if kind == UNUSED:
        return OK
    if kind == STRING:
        if node.kind != TEXT or not is_utf8(m, node):
            return UNFIT
    elif kind == BYTES_COLUMN:
        if node.kind != BYTES and (column.exact or node.kind != BYTEARRAY):
            return UNFIT
    elif kind != BYTEARRAY_COLUMN or node.kind != BYTEARRAY:
        return UNFIT
    return put_bytes(<uint32_t*>out, <const char*>m.bytes + node.at, node.count, slot)


cdef bint is_utf8(Machine* m, Node* node) except -1:
    """Whether it is text that has a UTF-8 form: pickle also writes lone surrogates."""
    cdef const uint8_t* text = m.bytes + node.at
    cdef uint8_t any_high = 0
    cdef Py_ssize_t i
    for i in range(node.count):
        any_high |= text[i]
    if any_high < 128:
        return True
    try:
        PyUnicode_DecodeUTF8(<const char*>text, node.count, NULL)
    except UnicodeDecodeError:
        return False
    return True


cdef bint put_nested(ColumnState* column, Machine* m, Node* node, int level, char* out) noexcept nogil:
    """Nested lists and tuples of numbers of the column's shape; 0 when they are anything else."""
    cdef Chunk* chunk
    cdef Node* child
    cdef Py_ssize_t i, at = 0
    if node.kind != LIST and node.kind != TUPLE:
        return 0
    if column.levels[level] is not NULL and column.levels[level] is not (&PyList_Type if node.kind == LIST else &PyTuple_Type):
        return 0
    chunk = chunk_of(m, node)
    if chunk.items != column.shape[level]:
        return 0
    if level == column.dims - 1:
        return put_items(column, m, chunk, out)
    while True:
        child = children_of(m, chunk)
        for i in range(chunk.nodes):
            if child[i].kind == FLOATS or not put_nested(column, m, &child[i], level + 1, out + at * column.steps[level]):
                return 0
            at += 1
        if chunk.next < 0:
            return 1
        chunk = <Chunk*>m.chunks.data + chunk.next


cdef bint put_items(ColumnState* column, Machine* m, Chunk* chunk, char* out) noexcept nogil:
    """The numbers of one list, one behind the other; 0 when they are anything else."""
    cdef Node* child
    cdef Py_ssize_t i, at = 0, count
    while True:
        child = children_of(m, chunk)
        for i in range(chunk.nodes):
            count = child[i].count if child[i].kind == FLOATS else 1
            if not put_numbers(column.code, out, at, m.bytes, &child[i], 0, count, column.takes):
                return 0
            at += count
        if chunk.next < 0:
            return 1
        chunk = <Chunk*>m.chunks.data + chunk.next


cdef int put_ragged(ColumnState* column, Machine* m, Node* node, Slot* slot, uint32_t* entry) noexcept:
    """A list or array of numbers of one dimension, as ``_column.put_ragged`` writes it; deeper ones are unpickled."""
    cdef Py_ssize_t top = (slot.top + 7) & ~<Py_ssize_t>7
    cdef Py_ssize_t count
    cdef Chunk* chunk = NULL
    cdef Array* array = NULL
    if column.inner != 1 or column.dims != 1:
        return UNFIT
    if node.kind == LIST or node.kind == TUPLE:
        chunk = chunk_of(m, node)
        count = chunk.items
    elif node.kind == ARRAY:
        array = <Array*>m.arrays.data + node.at
        if not array.whole or array.dims != 1 or array.code != column.code:
            return UNFIT
        count = array.shape[0]
    else:
        return UNFIT
    if count * column.itemsize > slot.size - top:
        return NO_ROOM
    if array is not NULL:
        memcpy(slot.start + top, m.bytes + array.data, array.size)
    elif not put_items(column, m, chunk, slot.start + top):
        return UNFIT
    entry[0] = <uint32_t>top
    entry[1] = <uint32_t>(count * column.itemsize)
    slot.top = top + count * column.itemsize
    return OK


cdef bint put_array(ColumnState* column, Machine* m, Node* node, char* out) noexcept nogil:
    """An array of just this shape: copied, or cast to floats; 0 when that is not done here."""
    cdef Array* array = <Array*>m.arrays.data + node.at
    cdef int i
    if not array.whole or column.dims > MAX_DIMS or array.dims != column.dims:
        return 0
    for i in range(column.dims):
        if array.shape[i] != column.shape[i]:
            return 0
    if array.code == column.code:
        memcpy(out, m.bytes + array.data, array.size)
        return 1
    if not column.casts >> array.code & 1:
        return 0
    return cast_bytes(array.code, m.bytes + array.data, array.size, out, column.code == FLOAT32)


cdef bint put_scalar(ColumnState* column, Machine* m, Node* node, char* out) noexcept nogil:
    """A numpy scalar of just this type; 0 when it is another."""
    cdef Array* array = <Array*>m.arrays.data + node.at
    if array.code != column.code or array.size != column.row_bytes:
        return 0
    memcpy(out, m.bytes + array.data, array.size)
    return 1
