"""One value of a parsed pickle stream into a column of a slot."""

from tfos_fast.native.column_writer cimport ColumnState, Slot
from tfos_fast.native.pickled.parsed cimport Machine, Node

# OK, NO_ROOM or UNFIT. Of a run of floats it is the one after so many others.
cdef int put_value(ColumnState* column, Machine* m, Node* node, Py_ssize_t within, Slot* slot, Py_ssize_t row) except -1
