"""Pinned shared memory on a GPU node: copies from the slots to the GPU are then asynchronous. Floor 2, beside ``feed.py``.

What is known, and where from:

- TensorFlow copies a host tensor to a GPU with one asynchronous driver call on a stream, and keeps the tensor until an event behind
  that copy has passed (``GPUUtil::CopyCPUTensorToGPU``; tensorflow/tensorflow, tensorflow/core/common_runtime/gpu/gpu_util.cc). Of
  pageable memory the driver makes this a staged copy that the caller waits for; of pinned memory it does not (CUDA driver API,
  "API synchronization behavior").
- TensorFlow uses each GPU's *primary* context, which it retains (``CudaContext::Create``; openxla/xla,
  xla/stream_executor/cuda/cuda_context.cc). It logs an error when that context is active with other flags than it wants. So
  TensorFlow's devices are initialized first, and then its context is retained once more: nothing is created beside it, and no flag
  is set. The calling thread's current context is put back (push and pop).
- ``CU_MEMHOSTREGISTER_PORTABLE`` pins for all contexts, so one registration serves all GPUs of the process.

A program that has hidden its GPUs (``CUDA_VISIBLE_DEVICES`` empty or -1, or ``tf.config.set_visible_devices([], "GPU")``) gets no
context: the driver is then not even loaded by us.

Settings: ``TFOS_FAST_PINNED=auto`` (default) or ``off``; ``TFOS_FAST_LIBCUDA`` names the driver's library (default libcuda.so.1).
On Spark's executors ``spark.executorEnv.TFOS_FAST_PINNED`` sets it.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Callable
from typing import Any

log = logging.getLogger("tfos_fast.tf.gpu")

_PORTABLE = 0x01  # CU_MEMHOSTREGISTER_PORTABLE
_NO_DEVICES = ("", "-1", "NoDevFiles")


class _Off(Exception):
    """Why memory is not pinned."""


class Pinned:
    """A registration of a mapping with the CUDA driver. It keeps the mapping until ``close``.

    Made by :func:`pin`.

    Attributes
    ----------
    address, size : int
        What is registered.
    """

    def __init__(self, driver: _Driver, mapping: Any, device: int) -> None:
        self.address, self.size = mapping.address, mapping.size
        self._driver = driver
        self._device = device
        self._mapping: Any = mapping
        self._pid = os.getpid()
        self._context = driver.retain(device)
        try:
            with driver.current(self._context):
                driver.call("cuMemHostRegister_v2", ctypes.c_void_p(self.address), ctypes.c_size_t(self.size), _PORTABLE)
        except BaseException:
            driver.release(device)
            raise

    def close(self) -> None:
        """Undo the registration, after the copies that are under way. Does nothing the second time, or in a forked process."""
        mapping, self._mapping = self._mapping, None
        if mapping is None or os.getpid() != self._pid:
            return
        try:
            with self._driver.current(self._context):
                self._driver.call("cuCtxSynchronize")
                self._driver.call("cuMemHostUnregister", ctypes.c_void_p(self.address))
            self._driver.release(self._device)
        except _Off as error:  # a GPU that has failed, or a driver that has shut down before us
            log.warning("the shared memory could not be unpinned: %s", error)


class _Driver:
    """The few calls of the CUDA driver that are needed, through ctypes."""

    def __init__(self, path: str) -> None:
        try:
            self._lib = ctypes.CDLL(path)
        except OSError as error:
            raise _Off(f"no CUDA driver ({error})") from None
        self.call("cuInit", 0)
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        if count.value == 0:
            raise _Off("the CUDA driver finds no GPU")
        self.devices = count.value

    def call(self, name: str, *args: Any) -> None:
        """Call, and raise what it says.

        Raises
        ------
        _Off
        """
        try:
            function = getattr(self._lib, name)
        except AttributeError:
            raise _Off(f"the CUDA driver has no {name}") from None
        status = function(*args)
        if status != 0:
            raise _Off(f"{name} failed with {self._name(status)}")

    def _name(self, status: int) -> str:
        text = ctypes.c_char_p()
        try:
            self._lib.cuGetErrorName(status, ctypes.byref(text))
        except AttributeError:
            text.value = None
        return f"{text.value.decode()} ({status})" if text.value else f"error {status}"

    def retain(self, ordinal: int) -> ctypes.c_void_p:
        """The device's primary context: TensorFlow's own, if that has one."""
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), ordinal)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        return context

    def release(self, ordinal: int) -> None:
        """Give up what ``retain`` gave."""
        device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(device), ordinal)
        self.call("cuDevicePrimaryCtxRelease_v2", device)

    def current(self, context: ctypes.c_void_p) -> _Current:
        """A block in which the context is this thread's current one."""
        return _Current(self, context)


class _Current:
    def __init__(self, driver: _Driver, context: ctypes.c_void_p) -> None:
        self._driver = driver
        self._context = context

    def __enter__(self) -> None:
        self._driver.call("cuCtxPushCurrent_v2", self._context)

    def __exit__(self, *exc: object) -> None:
        self._driver.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))


def pin(mapping: Any, *, ordinal: Callable[[], int | None] = lambda: 0) -> Pinned | None:
    """Register a mapping as pinned memory if a GPU and its driver are there; else say why not, in one line of the log.

    Parameters
    ----------
    mapping : Mapping
        Of a segment; ``address`` and ``size`` of it are used.
    ordinal : callable
        Number, among the GPUs that CUDA shows, of one that the program uses; None: it uses none. Asked last.

    Returns
    -------
    Pinned or None

    Raises
    ------
    ValueError
        ``TFOS_FAST_PINNED`` is neither auto nor off.
    """
    setting = os.environ.get("TFOS_FAST_PINNED", "auto")
    if setting not in ("auto", "off"):
        raise ValueError(f"TFOS_FAST_PINNED={setting!r}: write auto or off")
    try:
        if setting == "off":
            raise _Off("TFOS_FAST_PINNED=off")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None and visible.strip() in _NO_DEVICES:
            raise _Off(f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU")
        device = ordinal()
        if device is None:
            raise _Off("TensorFlow uses no GPU")
        driver = _Driver(os.environ.get("TFOS_FAST_LIBCUDA", "libcuda.so.1"))
        if device >= driver.devices:
            raise _Off(f"TensorFlow uses GPU {device}, the CUDA driver finds {driver.devices}")
        pinned = Pinned(driver, mapping, device)
    except _Off as reason:
        _say(str(reason))
        return None
    log.info("shared memory is pinned for copies to a GPU: %d bytes", pinned.size)
    return pinned


def tensorflow_gpu(tf: Any) -> int | None:
    """Number of the first GPU that TensorFlow may use, its devices being initialized then; None when it may use none."""
    if not tf.config.get_visible_devices("GPU"):  # looks, and makes no context
        return None
    tf.config.list_logical_devices("GPU")  # makes TensorFlow's contexts, with its own flags
    return int(tf.config.get_visible_devices("GPU")[0].name.rsplit(":", 1)[1])


@functools.cache
def _say(reason: str) -> None:
    log.info("shared memory is not pinned for copies to a GPU: %s", reason)  # once, however many feeds there are
