"""The stack, the memo and the values of the pickle machine: what opcodes push, pop, gather and remember."""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy

from tfos_fast.native.pickled.parsed cimport Arena, Chunk, DICT, FLOATS, Machine, Node, TUPLE


cdef enum Outcome:
    GO_ON
    DONE
    UNKNOWN         # the stream must be unpickled
    NO_MEMORY
    WHOLE           # it must be parsed without the pattern

cdef inline void* grow(Arena* arena, Py_ssize_t more, size_t size) noexcept nogil:
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

cdef inline Py_ssize_t floor(Machine* m) noexcept nogil:
    """What may be popped lies above this."""
    return (<Py_ssize_t*>m.marks.data)[m.marks.used - 1] if m.marks.used else 0

cdef inline int pop_mark(Machine* m, Py_ssize_t* base) noexcept nogil:
    if m.marks.used == 0:
        return UNKNOWN
    m.marks.used -= 1
    base[0] = (<Py_ssize_t*>m.marks.data)[m.marks.used]
    return GO_ON

# ---- tuples, lists, dicts ----------------------------------------------------------------------------------------------------

cdef inline int gather(Machine* m, Py_ssize_t base, Chunk* out) noexcept nogil:
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

cdef inline void memcpy_backwards(Node* target, Node* source, Py_ssize_t count) noexcept nogil:
    """Shift nodes up by one: from the last to the first, since the places overlap."""
    cdef Py_ssize_t i
    for i in range(count - 1, -1, -1):
        target[i] = source[i]

cdef inline int split(Machine* m, Py_ssize_t items, Py_ssize_t* base) noexcept nogil:
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

cdef inline int push_chunk(Machine* m, int kind, Chunk* content) noexcept nogil:
    cdef Chunk* chunk = <Chunk*>grow(&m.chunks, 1, sizeof(Chunk))
    if chunk is NULL:
        return NO_MEMORY
    chunk[0] = content[0]
    chunk.last = m.chunks.used
    m.chunks.used += 1
    return push(m, kind, 1, m.chunks.used - 1)

cdef inline int tuple_of(Machine* m, Py_ssize_t base) noexcept nogil:
    cdef Chunk content
    cdef int outcome = gather(m, base, &content)
    return outcome if outcome != GO_ON else push_chunk(m, TUPLE, &content)

cdef inline int extend(Machine* m, Py_ssize_t base, int kind) noexcept nogil:
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

# ---- the memo ----------------------------------------------------------------------------------------------------------------

cdef inline int remember(Machine* m, Py_ssize_t number) noexcept nogil:
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

cdef inline int recall(Machine* m, Py_ssize_t number) noexcept nogil:
    cdef Node node
    if number >= m.memo.used:
        return UNKNOWN
    if m.solid >= 0 and number >= m.solid:
        return WHOLE
    node = (<Node*>m.memo.data)[number]
    return push(m, node.kind, node.count, node.at)
