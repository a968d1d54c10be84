"""Rows that are pickled alike.

Rows of one program differ in their numbers, and in hardly anything else: the opcodes are the same, in the same order. So when a batch
has been parsed, its second row becomes the *pattern* of those behind it and of the batches that follow: *fields* (numbers, the bytes
of arrays) at known places, and between them bytes that must be the same. A row that follows the pattern is compared, which takes a
few steps where parsing takes one for each opcode.

It is the same for sure, since the bytes of the second row do nothing but push one value: from their first to their last opcode the
machine's stack was never as low as before them. What they mean depends on nothing else than what they refer to among the things
remembered, and that is looked at in each batch (``suits``). Bytes that are no field decide everything that numbers might decide,
such as the shape of an array. References to anything that such a row would have remembered, and numbers given by the stream
itself, make the machine parse the whole batch.
"""

from libc.string cimport memcmp, memcpy

from tfos_fast.native.pickled.binfloat_simd cimport run_of_floats
from tfos_fast.native.pickled.parsed cimport (
    ARRAY, BINBYTES8, BINUNICODE8, BYTEARRAY8, Chunk, DTYPE, Dtype, FALSE, FLOATS, FUNCTION, INT, LIST, LONG1, MEMOIZE, NEWFALSE, NEWTRUE,
    Node, SCALAR, SHORT_BINUNICODE, TEXT, TRUE, TUPLE, TUPLE1, TUPLE2, TUPLE3, children_of, chunk_of, little,
)

cdef extern from *:
    """
    #define tfos_prefetch(where) __builtin_prefetch(where)
    """
    void tfos_prefetch(const void* where) noexcept nogil

cdef enum:
    LARGE = 256  # bytes; what lies behind less is read ahead by the processor itself


# ---- comparing ---------------------------------------------------------------------------------------------------------------


cdef Py_ssize_t end_of_row(Pattern* pattern, const uint8_t* stream, Py_ssize_t at, Py_ssize_t size) noexcept nogil:
    """Where the row ends that begins at `at`, or -1: it does not follow the pattern."""
    cdef const uint8_t* literal = pattern.literal
    cdef Field* field = pattern.field
    cdef Py_ssize_t i, more
    for i in range(pattern.fields):
        if size - at <= field.literal or differ(stream + at, literal, field.literal):
            return -1
        at += field.literal
        literal += field.literal
        if field.kind == DATA:
            more = field.count
            if size - at < more:
                return -1
            if more >= LARGE and size - at > 3 * more:
                # What follows the data of the next row but one: it lies in memory not yet read.
                tfos_prefetch(stream + at + 3 * more)
                tfos_prefetch(stream + at + 3 * more + 64)
        elif field.kind == RUN:
            more = 9 * field.count
            if size - at < more or run_of_floats(stream + at, field.count) < field.count:
                return -1
        elif field.kind == WHOLE_NUMBER:
            more = size_of_int(stream + at, size - at)
            if more == 0:
                return -1
        else:
            more = 1
            if stream[at] != NEWTRUE and stream[at] != NEWFALSE:
                return -1
        at += more
        field += 1
    if size - at < pattern.tail or differ(stream + at, literal, pattern.tail):
        return -1
    return at + pattern.tail


cdef bint suits(Pattern* pattern, Machine* m) noexcept nogil:
    """Whether what the pattern refers to is in this batch what it was when it was learnt."""
    cdef Recalled now
    cdef Py_ssize_t i
    for i in range(pattern.recalls):
        if not look_up(m, pattern.recalled[i].number, &now) or not same(&now, &pattern.recalled[i]):
            return False
    return True


cdef bint same(Recalled* one, Recalled* other) noexcept nogil:
    if one.kind != other.kind or one.value != other.value:
        return False
    if one.kind == TEXT:
        return memcmp(one.text, other.text, <size_t>one.value) == 0
    return one.kind != DTYPE or one.itemsize == other.itemsize


cdef bint look_up(Machine* m, Py_ssize_t number, Recalled* out) noexcept nogil:
    """What was remembered by this number; 0 when it is not of a kind that stays as it is."""
    cdef Node* node
    cdef Dtype* dtype
    if number >= m.memo.used:
        return False
    node = <Node*>m.memo.data + number
    out.number = number
    out.kind = node.kind
    out.value = node.at
    if node.kind == TEXT:
        if node.count > MAX_TEXT:
            return False
        out.value = node.count
        memcpy(out.text, m.bytes + node.at, node.count)
        return True
    if node.kind == DTYPE:
        dtype = <Dtype*>m.dtypes.data + node.at
        out.value = dtype.code
        out.itemsize = dtype.itemsize
        return dtype.whole
    return node.kind == FUNCTION


# ---- learning ----------------------------------------------------------------------------------------------------------------


cdef void learn(Pattern* pattern, Machine* m) noexcept nogil:
    """Make the second row of the batch, which was parsed without a pattern, the pattern; there is none if it has anything else
    than numbers."""
    cdef Py_ssize_t begin = m.starts[2], end = m.starts[3]
    cdef Chunk* chunk = chunk_of(m, <Node*>m.stack.data)
    cdef Node* rows = children_of(m, chunk)
    if m.renumbered or not 0 < begin < end or chunk.nodes < 2 or rows[0].kind == FLOATS:
        return  # too few rows, or others: an older pattern stays
    pattern.fields = pattern.columns = pattern.recalls = pattern.remembered = pattern.literals = 0
    if (rows[1].kind != TUPLE and rows[1].kind != LIST) or not look_through(pattern, m, begin, end):
        return
    pattern.kind = rows[1].kind
    if not take_row(pattern, m, &rows[1], begin, end):
        pattern.fields = 0


cdef bint look_through(Pattern* pattern, Machine* m, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    """Every opcode of the row: only those that push values, or make one of those on the stack."""
    cdef int code
    cdef Py_ssize_t number
    while at < end:
        code = m.bytes[at]
        if code == c"G":
            at += 9
        elif code == c"K" or code == c"M" or code == c"J" or code == LONG1:
            number = size_of_int(m.bytes + at, end - at)
            if number == 0:
                return False
            at += number
        elif code == c"h" or code == c"j":
            number = m.bytes[at + 1] if code == c"h" else <Py_ssize_t>little(m.bytes + at + 1, 4)
            if pattern.recalls == MAX_RECALLED or not look_up(m, number, &pattern.recalled[pattern.recalls]):
                return False
            pattern.recalls += 1
            at += 2 if code == c"h" else 5
        elif code == MEMOIZE:
            pattern.remembered += 1
            at += 1
        elif code == SHORT_BINUNICODE or code == c"C":
            at += 2 + m.bytes[at + 1]
        elif code == c"X" or code == c"B":
            at += 5 + <Py_ssize_t>little(m.bytes + at + 1, 4)
        elif code == BINUNICODE8 or code == BINBYTES8 or code == BYTEARRAY8:
            at += 9 + <Py_ssize_t>little(m.bytes + at + 1, 8)
        elif (
            code == c"(" or code == c"t" or code == TUPLE1 or code == TUPLE2 or code == TUPLE3 or code == c"]" or code == c")"
            or code == c"e" or code == c"a" or code == c"R" or code == c"b" or code == c"N" or code == NEWTRUE or code == NEWFALSE
        ):
            at += 1
        else:
            return False
    return at == end


cdef bint take_row(Pattern* pattern, Machine* m, Node* row, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Fields and parts of the row; 0 when it has others than numbers, arrays and lists of numbers, all with bytes of their own."""
    cdef Chunk* chunk = chunk_of(m, row)
    cdef Node* node = children_of(m, chunk)
    cdef Py_ssize_t i, k, at = begin
    cdef Part* part
    cdef Array* array
    if chunk.next >= 0 or chunk.items > MAX_COLUMNS:
        return False
    for i in range(chunk.nodes):
        part = &pattern.part[pattern.columns]
        if node[i].kind == LIST or node[i].kind == TUPLE:
            part.kind = node[i].kind
            part.items = chunk_of(m, &node[i]).items
            if not take_items(pattern, m, chunk_of(m, &node[i]), &at, end):
                return False
            pattern.columns += 1
        elif node[i].kind == ARRAY or node[i].kind == SCALAR:
            array = <Array*>m.arrays.data + node[i].at
            if not array.whole or not take_field(pattern, m, DATA, array.data, array.size, 0, &at, end):
                return False
            part.kind = node[i].kind
            part.array = array[0]
            pattern.columns += 1
        else:
            if not take_number(pattern, m, &node[i], 0, &at, end):
                return False
            pattern.field[pattern.fields - 1].spread = True
            for k in range(node[i].count if node[i].kind == FLOATS else 1):
                pattern.part[pattern.columns].kind = INT
                pattern.columns += 1
    pattern.tail = end - at
    return take_literal(pattern, m, at, end)


cdef bint take_items(Pattern* pattern, Machine* m, Chunk* chunk, Py_ssize_t* at, Py_ssize_t end) noexcept nogil:
    cdef Node* node
    cdef Py_ssize_t i, index = 0
    while True:
        node = children_of(m, chunk)
        for i in range(chunk.nodes):
            if not take_number(pattern, m, &node[i], index, at, end):
                return False
            index += node[i].count if node[i].kind == FLOATS else 1
        if chunk.next < 0:
            return True
        chunk = <Chunk*>m.chunks.data + chunk.next


cdef bint take_number(Pattern* pattern, Machine* m, Node* node, Py_ssize_t index, Py_ssize_t* at, Py_ssize_t end) noexcept nogil:
    if node.kind == FLOATS:
        return take_field(pattern, m, RUN, node.at, node.count, index, at, end)
    if node.kind == INT:
        return take_field(pattern, m, WHOLE_NUMBER, node.count, 0, index, at, end)
    if node.kind == TRUE or node.kind == FALSE:
        return take_field(pattern, m, TRUTH, node.at, 0, index, at, end)
    return False


cdef bint take_field(
    Pattern* pattern, Machine* m, int kind, Py_ssize_t where, Py_ssize_t count, Py_ssize_t index, Py_ssize_t* at, Py_ssize_t end
) noexcept nogil:
    """The next field, whose bytes begin at `where`: behind those of the one before, and before the row's end."""
    cdef Field* field = &pattern.field[pattern.fields]
    cdef Py_ssize_t size = count if kind == DATA else 9 * count if kind == RUN else 1
    if pattern.fields == MAX_FIELDS or where < at[0] or where >= end:
        return False
    if kind == WHOLE_NUMBER:
        size = size_of_int(m.bytes + where, end - where)
        if size == 0:
            return False
    if size > end - where or not take_literal(pattern, m, at[0], where):
        return False
    field.kind = kind
    field.literal = where - at[0]
    field.count = count
    field.column = pattern.columns
    field.index = index
    field.spread = False
    pattern.fields += 1
    at[0] = where + size
    return True


cdef bint take_literal(Pattern* pattern, Machine* m, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    if end - begin > MAX_LITERALS - pattern.literals:
        return False
    memcpy(pattern.literal + pattern.literals, m.bytes + begin, end - begin)
    pattern.literals += end - begin
    return True
