"""Rows of a parsed pickle stream into a slot, without Python objects.

Each value is written exactly as ``_column.pyx`` would write the object. Whatever that cannot be said of here (a value that numpy has
to look at, an object column, another structure) is left to the packer, which gets the row unpickled: the result is the same, only
later.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.tuple cimport PyTuple_GET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from tfos_fast._column cimport (
    ANY, ARRAY as ARRAY_COLUMN, BYTEARRAY as BYTEARRAY_COLUMN, BYTES as BYTES_COLUMN, ColumnState, MAX_DIMS, NESTED, NO_ROOM, NUMBER,
    OK, RAGGED as RAGGED_COLUMN, SCALAR as SCALAR_COLUMN, STRING, Slot, UNFIT, put_bytes, put_null,
)
from tfos_fast._pack cimport RowPacker, _END, _FULL, _MISFIT, _TICK, _now
from tfos_fast._floats cimport to_float32, to_float64
from tfos_fast._nodes cimport (
    ALIKE, ARRAY, Array, BYTEARRAY, BYTES, Chunk, DICT, FALSE, FLOATS, INT, JVM_ROW, LIST, NEWTRUE, NOTHING, Node, ROW, SCALAR,
    TEXT, TRUE, TUPLE, children_of, chunk_of,
)
from tfos_fast._pattern cimport DATA, Field, Part, Pattern, RUN, WHOLE_NUMBER, size_of_int, value_of_int
from tfos_fast._stream cimport StreamBatch
from tfos_fast._values cimport (
    BOOL, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, PyList_Type, PyTuple_Type, TAKES_BOOL, TAKES_FLOAT, TAKES_INT, UINT8, UINT16,
    UINT32, UINT64, cast_any,
)

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum Structure:
    BARE
    AS_TUPLE
    AS_LIST
    AS_DICT
    AS_ROW
    POSITIONAL      # column mode: tuples and lists
    NAMED           # column mode: rows and dicts

cdef enum:
    MAX_INT = 10  # bytes of an int with its opcode

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
        return put_value(&packer.columns[0], batch, node, batch.within, &packer._slot, packer.rows)
    values = open_row(packer, batch, node, names)
    if values is NULL:
        return UNFIT
    if node.kind == DICT:
        step = 2
        values += 1
    for i in range(packer.count):
        outcome = put_value(&packer.columns[i], batch, values, within, &packer._slot, packer.rows)
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


cdef int put_alike(RowPacker packer, StreamBatch batch, const uint8_t* at) noexcept nogil:
    """OK, or UNFIT as for any other row."""
    cdef Pattern* pattern = &batch.pattern
    cdef Field* field = pattern.field
    cdef Py_ssize_t row = packer.rows, i, k
    cdef ColumnState* column
    cdef char* out
    cdef Node number
    for i in range(pattern.fields):
        at += field.literal
        column = &packer.columns[field.column]
        out = column.region + row * column.row_bytes
        if field.kind == DATA:
            if pattern.part[field.column].array.code == column.code:
                memcpy(out, at, field.count)
            elif not cast_bytes(pattern.part[field.column].array.code, at, field.count, out, column.code == FLOAT32):
                return UNFIT
            at += field.count
        elif field.kind == RUN:
            if field.spread:
                for k in range(field.count):
                    if not column.takes & TAKES_FLOAT or not put_floats(column.code, column.region + row * column.row_bytes, 0, at, 1):
                        return UNFIT
                    at += 9
                    column += 1
            else:
                if not column.takes & TAKES_FLOAT or not put_floats(column.code, out, field.index, at, field.count):
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
            if not put_numbers(column.code, out, field.index, batch, &number, 0, 1, column.takes):
                return UNFIT
        field += 1
    for i in range(packer.count):
        if packer.columns[i].mask is not NULL:
            packer.columns[i].mask[row] = 1
    return OK


# ---- values ------------------------------------------------------------------------------------------------------------------

cdef int put_value(ColumnState* column, StreamBatch batch, Node* node, Py_ssize_t within, Slot* slot, Py_ssize_t row) except -1:
    cdef int outcome
    if column.nulls and node.kind == NOTHING:
        return put_null(column, slot, row)
    outcome = put_something(column, batch, node, within, slot, row)
    if column.mask is not NULL:
        column.mask[row] = 1
    return outcome


cdef int put_something(
    ColumnState* column, StreamBatch batch, Node* node, Py_ssize_t within, Slot* slot, Py_ssize_t row
) except -1:
    cdef char* out = column.region + row * column.row_bytes
    cdef int kind = column.kind
    cdef Array* array
    if column.raw:
        if (node.kind != BYTES and node.kind != BYTEARRAY) or <Py_ssize_t>node.count != column.row_bytes:
            return UNFIT
        memcpy(out, batch.machine.bytes + node.at, column.row_bytes)
        return OK
    if kind == ANY or kind == NUMBER or kind == NESTED:
        if node.kind == ARRAY:
            return OK if kind == ANY and put_array(column, batch, node, out) else UNFIT
        if column.dims == 0:
            if node.kind == SCALAR:
                return OK if kind == ANY and put_scalar(column, batch, node, out) else UNFIT
            return OK if put_numbers(column.code, out, 0, batch, node, within, 1, column.takes) else UNFIT
        return OK if column.dims <= MAX_DIMS and put_nested(column, batch, node, 0, out) else UNFIT
    if kind == ARRAY_COLUMN:
        return OK if node.kind == ARRAY and put_array(column, batch, node, out) else UNFIT
    if kind == SCALAR_COLUMN:
        return OK if node.kind == SCALAR and put_scalar(column, batch, node, out) else UNFIT
    if kind == RAGGED_COLUMN:
        return put_ragged(column, batch, node, slot, <uint32_t*>out)
    if kind == STRING:
        if node.kind != TEXT or not is_utf8(batch, node):
            return UNFIT
    elif kind == BYTES_COLUMN:
        if node.kind != BYTES and (column.exact or node.kind != BYTEARRAY):
            return UNFIT
    elif kind != BYTEARRAY_COLUMN or node.kind != BYTEARRAY:
        return UNFIT
    return put_bytes(<uint32_t*>out, <const char*>batch.machine.bytes + node.at, node.count, slot)


cdef bint is_utf8(StreamBatch batch, Node* node) except -1:
    """Whether it is text that has a UTF-8 form: pickle also writes lone surrogates."""
    cdef const uint8_t* text = batch.machine.bytes + node.at
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


cdef bint put_nested(ColumnState* column, StreamBatch batch, Node* node, int level, char* out) noexcept nogil:
    """Nested lists and tuples of numbers of the column's shape; 0 when they are anything else."""
    cdef Chunk* chunk
    cdef Node* child
    cdef Py_ssize_t i, at = 0
    if node.kind != LIST and node.kind != TUPLE:
        return 0
    if column.levels[level] is not NULL and column.levels[level] is not (&PyList_Type if node.kind == LIST else &PyTuple_Type):
        return 0
    chunk = chunk_of(&batch.machine, node)
    if chunk.items != column.shape[level]:
        return 0
    if level == column.dims - 1:
        return put_items(column, batch, chunk, out)
    while True:
        child = children_of(&batch.machine, chunk)
        for i in range(chunk.nodes):
            if child[i].kind == FLOATS or not put_nested(column, batch, &child[i], level + 1, out + at * column.steps[level]):
                return 0
            at += 1
        if chunk.next < 0:
            return 1
        chunk = <Chunk*>batch.machine.chunks.data + chunk.next


cdef bint put_items(ColumnState* column, StreamBatch batch, Chunk* chunk, char* out) noexcept nogil:
    """The numbers of one list, one behind the other; 0 when they are anything else."""
    cdef Node* child
    cdef Py_ssize_t i, at = 0, count
    while True:
        child = children_of(&batch.machine, chunk)
        for i in range(chunk.nodes):
            count = child[i].count if child[i].kind == FLOATS else 1
            if not put_numbers(column.code, out, at, batch, &child[i], 0, count, column.takes):
                return 0
            at += count
        if chunk.next < 0:
            return 1
        chunk = <Chunk*>batch.machine.chunks.data + chunk.next


cdef int put_ragged(ColumnState* column, StreamBatch batch, Node* node, Slot* slot, uint32_t* entry) noexcept:
    """A list or array of numbers of one dimension, as ``_column.put_ragged`` writes it; deeper ones are unpickled."""
    cdef Py_ssize_t top = (slot.top + 7) & ~<Py_ssize_t>7
    cdef Py_ssize_t count
    cdef Chunk* chunk = NULL
    cdef Array* array = NULL
    if column.inner != 1 or column.dims != 1:
        return UNFIT
    if node.kind == LIST or node.kind == TUPLE:
        chunk = chunk_of(&batch.machine, node)
        count = chunk.items
    elif node.kind == ARRAY:
        array = <Array*>batch.machine.arrays.data + node.at
        if not array.whole or array.dims != 1 or array.code != column.code:
            return UNFIT
        count = array.shape[0]
    else:
        return UNFIT
    if count * column.itemsize > slot.size - top:
        return NO_ROOM
    if array is not NULL:
        memcpy(slot.start + top, batch.machine.bytes + array.data, array.size)
    elif not put_items(column, batch, chunk, slot.start + top):
        return UNFIT
    entry[0] = <uint32_t>top
    entry[1] = <uint32_t>(count * column.itemsize)
    slot.top = top + count * column.itemsize
    return OK


cdef bint put_numbers(
    int code, char* out, Py_ssize_t at, StreamBatch batch, Node* node, Py_ssize_t first, Py_ssize_t count, int takes
) noexcept nogil:
    """One number, or so many of a run of floats, as the loops of ``_values.pxd`` write them; 0 when the column does not take it."""
    if node.kind == FLOATS:
        return takes & TAKES_FLOAT and put_floats(code, out, at, batch.machine.bytes + node.at + 9 * first, count)
    if node.kind == INT:
        return takes & TAKES_INT and code != BOOL and put_int(code, out, at, node.at)
    if node.kind == TRUE or node.kind == FALSE:
        if code == BOOL:
            (<uint8_t*>out)[at] = node.kind == TRUE
            return 1
        return takes & TAKES_BOOL and put_int(code, out, at, node.kind == TRUE)
    return 0


cdef bint put_floats(int code, char* out, Py_ssize_t at, const uint8_t* source, Py_ssize_t count) noexcept nogil:
    """Floats that lie side by side in the stream, the first one's opcode at `source`; 0 when the column is no float32 or float64."""
    if code == FLOAT32:
        to_float32(source, <float*>out + at, count)
    elif code == FLOAT64:
        to_float64(source, <double*>out + at, count)
    else:
        return 0
    return 1


cdef bint put_int(int code, char* out, Py_ssize_t at, int64_t value) noexcept nogil:
    if code == INT64:
        (<int64_t*>out)[at] = value
    elif code == FLOAT32:
        (<float*>out)[at] = <float>value
    elif code == FLOAT64:
        (<double*>out)[at] = <double>value
    elif code == UINT8:
        (<uint8_t*>out)[at] = <uint8_t>value
        return 0 <= value <= 0xFF
    elif code == INT32:
        (<int32_t*>out)[at] = <int32_t>value
        return -0x80000000 <= value <= 0x7FFFFFFF
    elif code == INT8:
        (<int8_t*>out)[at] = <int8_t>value
        return -0x80 <= value <= 0x7F
    elif code == INT16:
        (<int16_t*>out)[at] = <int16_t>value
        return -0x8000 <= value <= 0x7FFF
    elif code == UINT16:
        (<uint16_t*>out)[at] = <uint16_t>value
        return 0 <= value <= 0xFFFF
    elif code == UINT32:
        (<uint32_t*>out)[at] = <uint32_t>value
        return 0 <= value <= <int64_t>0xFFFFFFFF
    elif code == UINT64:
        (<uint64_t*>out)[at] = <uint64_t>value
        return value >= 0
    else:
        return 0
    return 1


cdef bint put_array(ColumnState* column, StreamBatch batch, Node* node, char* out) noexcept nogil:
    """An array of just this shape: copied, or cast to floats; 0 when that is not done here."""
    cdef Array* array = <Array*>batch.machine.arrays.data + node.at
    cdef int i
    if not array.whole or column.dims > MAX_DIMS or array.dims != column.dims:
        return 0
    for i in range(column.dims):
        if array.shape[i] != column.shape[i]:
            return 0
    if array.code == column.code:
        memcpy(out, batch.machine.bytes + array.data, array.size)
        return 1
    if not column.casts >> array.code & 1:
        return 0
    return cast_bytes(array.code, batch.machine.bytes + array.data, array.size, out, column.code == FLOAT32)


cdef bint cast_bytes(int code, const uint8_t* source, Py_ssize_t size, char* out, bint single) noexcept nogil:
    """``cast_any`` for values at any address: by way of aligned pieces."""
    cdef double piece[512]
    cdef Py_ssize_t item = item_size(code), room = sizeof(piece), done = 0, part, count
    while done < size:
        part = min(room, size - done)
        count = part // item
        memcpy(piece, source + done, part)
        if not cast_any(code, piece, out, count, single):
            return 0
        out += count * (4 if single else 8)
        done += part
    return 1


cdef Py_ssize_t item_size(int code) noexcept nogil:
    if code == INT64 or code == UINT64 or code == FLOAT64:
        return 8
    if code == INT32 or code == UINT32 or code == FLOAT32:
        return 4
    return 2 if code == INT16 or code == UINT16 else 1


cdef bint put_scalar(ColumnState* column, StreamBatch batch, Node* node, char* out) noexcept nogil:
    """A numpy scalar of just this type; 0 when it is another."""
    cdef Array* array = <Array*>batch.machine.arrays.data + node.at
    if array.code != column.code or array.size != column.row_bytes:
        return 0
    memcpy(out, batch.machine.bytes + array.data, array.size)
    return 1
