"""Rows of a parsed pickle stream into a slot, without Python objects.

A row's values are found and given to ``pack_value.pyx``; of a row that follows the pattern they lie at known places. A row of
another structure, or with a value that is not plain, is left to the packer, which gets it unpickled: the result is the same, only
later.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp, memcpy

from tfos_fast.native.column_writer cimport (
    ANY, ARRAY as ARRAY_COLUMN, ColumnState, MAX_DIMS, NESTED, NO_ROOM, NUMBER, OK, SCALAR as SCALAR_COLUMN, UNFIT, UNUSED,
)
from tfos_fast.native.pickled.parsed cimport (
    ALIKE, Chunk, DICT, FALSE, FLOATS, INT, JVM_ROW, LIST, NEWTRUE, Node, ROW, SCALAR, TEXT, TRUE, TUPLE, children_of, chunk_of,
)
from tfos_fast.native.row_packer cimport RowPacker, _END, _FULL, _TICK, _now
from tfos_fast.native.pickled.row_template cimport DATA, Field, Part, Pattern, RUN, WHOLE_NUMBER, size_of_int, value_of_int
from tfos_fast.native.pickled.batch cimport StreamBatch
from tfos_fast.native.pickled.pickled_numbers cimport cast_bytes, item_size, put_floats, put_numbers
from tfos_fast.native.pickled.pack_value cimport put_value
from tfos_fast.native.py_numbers cimport FLOAT32, PyList_Type, PyTuple_Type, TAKES_FLOAT

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef extern from "past.h" nogil:
    void tfos_past(char* to, const char* source, size_t size)
    void tfos_past_done()

cdef enum:
    AT_ONCE = 32  # rows that follow the pattern; then the clock is asked
    MAX_INT = 10  # bytes of an int with its opcode
    PAST = 512  # bytes of a value from which on it is written past the caches (see native/nt_copy.pyx),
    LARGE_SLOT = 1 << 20  # into slots that have left this core's caches before they are written again

cdef struct Names:
    int64_t* at     # where each name was last found to be right, in the stream
    int64_t fields  # and all of them, in the list of a row's names
    int64_t type    # or in which of the batch's types
    bint known


def pack_stream(RowPacker packer, StreamBatch batch, double tick_seconds):
    """Pack rows of a batch into the packer's slot until something happens; as ``RowPacker.pack_from``, with the same results.

    Parameters
    ----------
    packer : RowPacker
        With a slot bound.
    batch : StreamBatch
        Loaded; its position goes on.
    tick_seconds : float

    Returns
    -------
    int
        END: the batch has no more rows. FULL, MISFIT, TICK: see ``RowPacker.pack_from``.

    Raises
    ------
    RowTooLarge
        A row does not fit a slot of its own; it is pending.
    """
    cdef Names names
    cdef int event = 0
    cdef double until = _now() + tick_seconds
    packer._check_idle()
    if not packer._bound:
        raise ValueError("no slot is bound")
    if batch.machine.solid >= 0 and not follows_fit(packer, batch):
        batch.parse_whole()
    names.known = False
    names.fields = names.type = -1
    names.at = <int64_t*>PyMem_Malloc(max(packer.count, 1) * sizeof(int64_t))
    if names.at is NULL:
        raise MemoryError()
    packer._busy = True
    try:
        while not event:
            if packer.rows >= packer._capacity and packer._capacity:
                return _FULL
            if not packer.has_pending and batch.position >= batch.rows:
                return _END
            if not packer.has_pending and batch.node.kind == ALIKE and put_rows_alike(packer, batch, AT_ONCE):
                if _now() >= until:
                    return _FULL if packer.rows >= packer._capacity else _TICK
                continue
            event = next_row(packer, batch, &names)
            if event == _FULL and packer.rows == 0:
                if not packer.has_pending:
                    to_pending(packer, batch)
                packer._make_room()
                event = 0
            # The clock takes as long as three numbers of a row: it is asked after every eighth.
            if not event and packer.rows % 8 == 0 and _now() >= until:
                return _FULL if packer.rows >= packer._capacity else _TICK
        return event
    finally:
        tfos_past_done()
        packer._busy = False
        PyMem_Free(names.at)


cdef int to_pending(RowPacker packer, StreamBatch batch) except -1:
    packer._pending = batch.row_object()
    packer.has_pending = True
    batch.advance()
    return 0


cdef int next_row(RowPacker packer, StreamBatch batch, Names* names) except -1:
    """Pack the pending row, or else the next one: 0, _FULL (it stays where it is) or _MISFIT (it is pending)."""
    cdef int outcome, event
    cdef Py_ssize_t top = packer._slot.top
    if not packer.has_pending:
        outcome = put_row(packer, batch, names) if packer.rows < packer._capacity else NO_ROOM
        if outcome == OK:
            packer.rows += 1
            batch.advance()
            return 0
        packer._slot.top = top
        if outcome == NO_ROOM:
            return _FULL
        to_pending(packer, batch)
    row = packer._pending
    packer._pending = None
    packer.has_pending = False
    event = packer._put_row(row)
    if event:
        packer._pending = row
        packer.has_pending = True
    return event


cdef int put_row(RowPacker packer, StreamBatch batch, Names* names) except -1:
    """OK, NO_ROOM, or UNFIT: it must be unpickled."""
    cdef Node* node = batch.node
    cdef Node* values
    cdef Py_ssize_t i, within = 0, step = 1
    cdef int outcome
    if node.kind == ALIKE:
        return put_alike(packer, batch, <const uint8_t*>batch.machine.bytes + node.at)
    if packer._bare:
        return put_value(&packer.columns[0], &batch.machine, node, batch.within, &packer._slot, packer.rows)
    values = open_row(packer, batch, node, names)
    if values is NULL:
        return UNFIT
    if node.kind == DICT:
        step = 2
        values += 1
    for i in range(packer.count):
        outcome = put_value(&packer.columns[i], &batch.machine, values, within, &packer._slot, packer.rows)
        if outcome != OK:
            return outcome
        within += 1
        if values.kind != FLOATS or within == values.count or step == 2:
            within = 0
            values += step
    return OK


cdef Node* open_row(RowPacker packer, StreamBatch batch, Node* node, Names* names) except? NULL:
    """The first of the row's values, which then lie side by side (in a dict behind their keys); NULL when it is another structure."""
    cdef Chunk* chunk
    cdef Node* parts
    cdef str structure = packer._structure
    if node.kind == TUPLE or node.kind == LIST:
        if packer.exact:
            if structure != ("tuple" if node.kind == TUPLE else "list"):
                return NULL
        elif not packer._positional:
            return NULL
        chunk = chunk_of(&batch.machine, node)
        return children_of(&batch.machine, chunk) if chunk.items == packer.count and chunk.next < 0 else NULL
    if node.kind == ROW:
        if packer.exact and structure != "row":
            return NULL
        parts = children_of(&batch.machine, chunk_of(&batch.machine, node))
        chunk = chunk_of(&batch.machine, &parts[1])
        if chunk.items != packer.count or chunk.next >= 0:
            return NULL
        if parts[0].at != names.fields:
            if not same_names(packer, batch, &parts[0]):
                return NULL
            names.fields = parts[0].at
        return children_of(&batch.machine, chunk)
    if node.kind == JVM_ROW:
        if packer.exact and structure != "row":
            return NULL
        chunk = chunk_of(&batch.machine, node)
        if chunk.items != packer.count or chunk.next >= 0:
            return NULL
        if names.type != node.count:
            if batch.types[node.count] != packer._names:
                return NULL
            names.type = node.count
        return children_of(&batch.machine, chunk)
    if node.kind == DICT:
        if packer.exact and structure != "dict":
            return NULL
        chunk = chunk_of(&batch.machine, node)
        parts = children_of(&batch.machine, chunk)
        if chunk.items != 2 * packer.count or chunk.nodes != chunk.items or chunk.next >= 0 or not same_keys(packer, batch, parts, names):
            return NULL
        return parts
    return NULL


cdef bint is_text(StreamBatch batch, Node* node, object text) except -1:
    cdef Py_ssize_t size = 0
    cdef const char* utf8
    if node.kind != TEXT:
        return False
    utf8 = PyUnicode_AsUTF8AndSize(text, &size)
    return size == <Py_ssize_t>node.count and memcmp(utf8, batch.machine.bytes + node.at, size) == 0


cdef bint same_names(RowPacker packer, StreamBatch batch, Node* fields) except -1:
    cdef Chunk* chunk = chunk_of(&batch.machine, fields)
    cdef Node* node = children_of(&batch.machine, chunk)
    cdef Py_ssize_t i
    if chunk.nodes != packer.count or chunk.items != chunk.nodes:
        return False
    for i in range(packer.count):
        if not is_text(batch, &node[i], packer._names[i]):
            return False
    return True


cdef bint same_keys(RowPacker packer, StreamBatch batch, Node* pairs, Names* names) except -1:
    cdef Py_ssize_t i
    cdef bint same = names.known
    for i in range(packer.count):
        # Rows of one program share their keys: they are remembered by the stream, and so the same bytes.
        if same and pairs[2 * i].kind == TEXT and pairs[2 * i].at == names.at[i]:
            continue
        if not is_text(batch, &pairs[2 * i], packer._names[i]):
            names.known = False
            return False
        names.at[i] = pairs[2 * i].at
    names.known = True
    return True


# ---- rows that follow the pattern --------------------------------------------------------------------------------------------


cdef bint follows_fit(RowPacker packer, StreamBatch batch):
    """Whether rows that follow the pattern can be written into the packer's columns as they are."""
    cdef Pattern* pattern = &batch.pattern
    cdef Py_ssize_t i
    if batch.fitted is packer:
        return batch.fits
    batch.fitted = packer
    batch.fits = pattern.columns == packer.count and not packer._bare
    if packer.exact:
        batch.fits = batch.fits and packer._structure == ("tuple" if pattern.kind == TUPLE else "list")
    else:
        batch.fits = batch.fits and packer._positional
    for i in range(pattern.columns if batch.fits else 0):
        batch.fits = batch.fits and part_fits(&packer.columns[i], &pattern.part[i])
    return batch.fits


cdef bint part_fits(ColumnState* column, Part* part) noexcept nogil:
    cdef bint any_number = column.kind == ANY or column.kind == NUMBER or column.kind == NESTED
    cdef int i
    if column.kind == UNUSED:
        return True
    if part.kind == INT:
        return any_number and column.dims == 0
    if part.kind == LIST or part.kind == TUPLE:
        if not any_number or column.dims != 1 or column.shape[0] != part.items:
            return False
        return column.levels[0] is NULL or column.levels[0] is (&PyList_Type if part.kind == LIST else &PyTuple_Type)
    if part.kind == SCALAR:
        if column.kind != ANY and column.kind != SCALAR_COLUMN:
            return False
        return (column.dims == 0 or column.kind == SCALAR_COLUMN) and part.array.code == column.code and part.array.size == column.row_bytes
    if column.kind != ANY and column.kind != ARRAY_COLUMN:
        return False
    if column.dims > MAX_DIMS or column.dims != part.array.dims:
        return False
    for i in range(column.dims):
        if column.shape[i] != part.array.shape[i]:
            return False
    return part.array.code == column.code or column.casts >> part.array.code & 1


cdef Py_ssize_t put_rows_alike(RowPacker packer, StreamBatch batch, Py_ssize_t most) noexcept nogil:
    """Pack the next rows, so many at most; returns how many: up to the slot's end, a chunk's end, or a row that must be packed otherwise."""
    cdef Node* node = batch.node
    cdef Py_ssize_t done = 0
    most = min(most, packer._capacity - packer.rows, batch.chunk.nodes - (node - children_of(&batch.machine, batch.chunk)))
    while done < most and node.kind == ALIKE and put_alike(packer, batch, <const uint8_t*>batch.machine.bytes + node.at) == OK:
        packer.rows += 1
        node += 1
        done += 1
    batch.position += done
    batch.node = node
    batch.follow()
    return done


cdef inline Py_ssize_t size_of_field(Field* field, const uint8_t* at) noexcept nogil:
    if field.kind == DATA:
        return field.count
    if field.kind == RUN:
        return 9 * field.count
    return size_of_int(at, MAX_INT) if field.kind == WHOLE_NUMBER else 1


cdef int put_alike(RowPacker packer, StreamBatch batch, const uint8_t* at) noexcept nogil:
    """OK, or UNFIT as for any other row."""
    cdef Pattern* pattern = &batch.pattern
    cdef Field* field = pattern.field
    cdef Py_ssize_t row = packer.rows, i, k
    cdef ColumnState* column
    cdef char* out
    cdef Node number
    cdef bint many
    cdef Py_ssize_t past = PAST if packer._slot.size >= LARGE_SLOT else PY_SSIZE_T_MAX
    for i in range(pattern.fields):
        at += field.literal
        column = &packer.columns[field.column]
        out = column.region + row * column.row_bytes
        if column.kind == UNUSED and not (field.kind == RUN and field.spread):
            at += size_of_field(field, at)
        elif field.kind == DATA:
            if pattern.part[field.column].array.code == column.code:
                if field.count >= past:
                    tfos_past(out, <const char*>at, field.count)
                else:
                    memcpy(out, at, field.count)
            elif not cast_bytes(pattern.part[field.column].array.code, at, field.count, out, column.code == FLOAT32):
                return UNFIT
            at += field.count
        elif field.kind == RUN:
            if field.spread:
                for k in range(field.count):
                    out = column.region + row * column.row_bytes
                    if column.kind != UNUSED and not (column.takes & TAKES_FLOAT and put_floats(column.code, out, 0, at, 1, False)):
                        return UNFIT
                    at += 9
                    column += 1
            else:
                many = field.count * item_size(column.code) >= past
                if not column.takes & TAKES_FLOAT or not put_floats(column.code, out, field.index, at, field.count, many):
                    return UNFIT
                at += 9 * field.count
        else:
            if field.kind == WHOLE_NUMBER:
                number.kind = INT
                number.at = value_of_int(at)
                at += size_of_int(at, MAX_INT)
            else:
                number.kind = TRUE if at[0] == NEWTRUE else FALSE
                at += 1
            if not put_numbers(column.code, out, field.index, batch.machine.bytes, &number, 0, 1, column.takes):
                return UNFIT
        field += 1
    for i in range(packer.count):
        if packer.columns[i].mask is not NULL:
            packer.columns[i].mask[row] = 1
    return OK
