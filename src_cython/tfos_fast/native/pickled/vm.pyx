"""The pickle machine: runs the opcodes of a stream, one by one, and makes structs in place of Python objects.

The opcodes are those of CPython's ``Lib/pickletools.py``. Text and bytes are not copied: a struct says where they lie. Nothing is
read behind the stream's end, and nothing popped that is not there.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from tfos_fast.native.pickled.binfloat_simd cimport run_of_floats
from tfos_fast.native.pickled.parsed cimport (
    ALIKE, BINBYTES8, BINUNICODE8, BYTEARRAY, BYTEARRAY8, BYTES, Chunk, DICT, FALSE, FLOATS, FRAME, INT, LIST, LONG1, LONG4,
    MAX_COUNT, MEMOIZE, Machine, NEWFALSE, NEWTRUE, NOTHING, Node, OPAQUE, PROTO, SHORT_BINUNICODE, STACK_GLOBAL, TEXT, TRUE,
    TUPLE, TUPLE1, TUPLE2, TUPLE3, chunk_of, little, signed_little,
)
from tfos_fast.native.pickled.row_template cimport Pattern, end_of_row, suits
from tfos_fast.native.pickled.known_globals cimport build, global_lines, reduce, stack_global
from tfos_fast.native.pickled.vm_stack cimport (
    DONE, GO_ON, NO_MEMORY, UNKNOWN, extend, grow, pop_mark, push, push_chunk, recall, remember, split, tuple_of,
)

cdef extern from *:
    """
    #define tfos_prefetch(where) __builtin_prefetch(where)
    """
    void tfos_prefetch(const void* where) noexcept nogil

cdef enum:
    LARGE = 256  # bytes; what lies behind less is read ahead by the processor itself


cdef void reset(Machine* m) noexcept nogil:
    m.stack.used = m.marks.used = m.memo.used = m.children.used = m.chunks.used = m.arrays.used = m.dtypes.used = m.types.used = 0
    m.large = 0
    m.solid = -1
    m.renumbered = False
    memset(m.starts, 0, sizeof(m.starts))


cdef void release(Machine* m) noexcept nogil:
    free(m.stack.data)
    free(m.marks.data)
    free(m.memo.data)
    free(m.children.data)
    free(m.chunks.data)
    free(m.arrays.data)
    free(m.dtypes.data)
    free(m.types.data)


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
