"""Columns as DLPack capsules, straight from the memory of a slot: no array is made for a batch.

The structures are DLPack's of version 0 (dmlc/dlpack, include/dlpack/dlpack.h), which all supported TensorFlows import.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

cdef extern from "Python.h":
    int Py_IsInitialized() nogil

cdef struct DLDevice:
    int32_t device_type
    int32_t device_id

cdef struct DLDataType:
    uint8_t code
    uint8_t bits
    uint16_t lanes

cdef struct DLTensor:
    void* data
    DLDevice device
    int32_t ndim
    DLDataType dtype
    int64_t* shape
    int64_t* strides  # NULL: compact, the last dimension first
    uint64_t byte_offset

ctypedef struct DLManagedTensor:
    DLTensor dl_tensor
    void* manager_ctx
    void (*deleter)(DLManagedTensor*) noexcept nogil

cdef enum:
    CPU = 1  # kDLCPU

# DLDataTypeCode by numpy's kind.
CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
BFLOAT = 4


cdef void _drop(PyObject* owner) noexcept with gil:
    Py_DECREF(<object>owner)


cdef void _release(DLManagedTensor* tensor) noexcept nogil:
    """By whoever has the tensor, on any thread; the shape lies in the same piece of memory."""
    if Py_IsInitialized():
        _drop(<PyObject*>tensor.manager_ctx)
    free(tensor)


cdef void _unused(object capsule) noexcept:
    """The capsule goes; who has imported it has given it another name."""
    cdef DLManagedTensor* tensor
    if PyCapsule_IsValid(capsule, "dltensor"):
        tensor = <DLManagedTensor*>PyCapsule_GetPointer(capsule, "dltensor")
        tensor.deleter(tensor)


cdef struct Form:
    char* data
    int64_t* shape
    int32_t ndim
    DLDataType dtype
    Py_ssize_t row  # bytes


cdef class Exporter:
    """Whole columns, of which any rows can be exported.

    Parameters
    ----------
    arrays : list of numpy.ndarray
        Each has a dimension at least, is C-contiguous and writable, and has as many rows as the others. They live as long as this
        and all tensors made by it.

    Raises
    ------
    BufferError
        An array is not contiguous or not writable, or DLPack has no such dtype.
    ValueError
        An array has no rows' dimension, or another number of rows.
    """

    cdef list _arrays
    cdef Form* _forms
    cdef Py_ssize_t _count
    cdef int64_t _rows

    def __cinit__(self, list arrays not None):
        cdef Py_ssize_t i, k
        cdef Form* form
        self._arrays = list(arrays)  # whoever changes theirs must not take a column from under a tensor
        self._forms = <Form*>calloc(max(len(arrays), 1), sizeof(Form))
        if self._forms is NULL:
            raise MemoryError
        for i, array in enumerate(arrays):
            form = &self._forms[i]
            if not array.ndim or array.shape[0] != arrays[0].shape[0]:
                raise ValueError(f"column {i} of shape {array.shape} has not the rows of the first, of shape {arrays[0].shape}")
            address, fixed = array.__array_interface__["data"]
            if fixed or not array.flags.c_contiguous:
                raise BufferError(f"column {i} is {'read-only' if fixed else 'not contiguous'}, which DLPack cannot say")
            form.dtype.code = _code(array.dtype)
            form.dtype.bits = 8 * array.dtype.itemsize
            form.dtype.lanes = 1
            form.data = <char*><uintptr_t>address
            form.row = array.strides[0]
            form.ndim = array.ndim
            form.shape = <int64_t*>malloc(array.ndim * sizeof(int64_t))
            if form.shape is NULL:
                raise MemoryError
            for k in range(array.ndim):
                form.shape[k] = array.shape[k]
            self._count += 1
        self._rows = len(arrays[0]) if arrays else 0

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self._forms is not NULL:
            for i in range(self._count):
                free(self._forms[i].shape)
            free(self._forms)

    def capsules(self, int64_t start, int64_t stop):
        """Rows of every column, each as a capsule to be imported once. Memory is not copied.

        Parameters
        ----------
        start, stop : int

        Returns
        -------
        list of PyCapsule
            Named ``dltensor``. A tensor made of one holds the columns; a capsule that nobody imports lets them go.

        Raises
        ------
        IndexError
            There are no such rows.
        """
        cdef Py_ssize_t i
        cdef Form* form
        cdef DLManagedTensor* tensor
        cdef int64_t* shape
        cdef list found = []
        if not 0 <= start <= stop <= self._rows:
            raise IndexError(f"rows {start} to {stop} of {self._rows}")
        for i in range(self._count):
            form = &self._forms[i]
            tensor = <DLManagedTensor*>malloc(sizeof(DLManagedTensor) + form.ndim * sizeof(int64_t))
            if tensor is NULL:
                raise MemoryError
            shape = <int64_t*>(tensor + 1)
            memcpy(shape, form.shape, form.ndim * sizeof(int64_t))
            shape[0] = stop - start
            tensor.dl_tensor.data = form.data + start * form.row
            tensor.dl_tensor.device.device_type = CPU
            tensor.dl_tensor.device.device_id = 0
            tensor.dl_tensor.ndim = form.ndim
            tensor.dl_tensor.dtype = form.dtype
            tensor.dl_tensor.shape = shape
            tensor.dl_tensor.strides = NULL
            tensor.dl_tensor.byte_offset = 0
            tensor.manager_ctx = <void*>self
            tensor.deleter = _release
            try:
                capsule = PyCapsule_New(tensor, "dltensor", _unused)
            except MemoryError:
                free(tensor)
                raise
            Py_INCREF(self)
            found.append(capsule)
        return found


def _code(dtype):
    if dtype.name == "bfloat16":
        return BFLOAT
    if dtype.kind not in CODES or not dtype.isnative:
        raise BufferError(f"DLPack has no {dtype}")
    return CODES[dtype.kind]


def capsule(array):
    """All of an array, copied nowhere. See :class:`Exporter`, of which this is one column."""
    return Exporter([array]).capsules(0, len(array))[0]
