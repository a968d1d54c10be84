"""The segment: one sealed memfd that holds a header page and the slots.

It has no name in any file system, so nothing can leak or be guessed: processes of the same user open it through
``/proc/<pid>/fd/<n>`` of the process that keeps it, and the kernel frees it when its last holder is gone. Its pages are reserved
when it is made; the seals make it impossible to shrink it under a reader (a truncated mapping kills with SIGBUS).
"""

from __future__ import annotations

import errno
import fcntl
import operator
import os
import secrets
import struct
import time

from tfos_fast.channel.host.kernel import explain
from tfos_fast.channel.host.memory import available_bytes
from tfos_fast.channel.host.reuse import mapped
from tfos_fast.errors import AddressError, ChannelClosed, NotEnoughMemory, SegmentError, UnsupportedPlatform
from tfos_fast.native.shared_memory import HUGE_PAGE, Lease, Mapping, ReleaseSet, Window

HEADER_BYTES = 4096
MIN_SLOTS = 4  # two may be held back by a hoarding reader, one is being read, one is being written
# A slot costs messages beside its bytes, whatever its size: agents and trainers took 1.2 us for a row of 784 float64 in 31 slots of
# 8 MiB, 1.0 in 31 of 16 (python -m benchmarks feed --only floats64 --profile). Few slots make writers wait.
_SLOT_BYTES = 16 << 20
_PAGE = 4096
# So long huge pages are asked for, and so many bytes a second beside: memory in pieces has to be put together first.
_HUGE_PAGES_S, _HUGE_PAGES_RATE = 0.3, 1 << 30
_MAGIC = b"TFOSFAST"
_VERSION = 1
_HEADER = struct.Struct("<8sI16sQQI")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_bytes(text: int | str, setting: str = "memory") -> int:
    """A number of bytes from ``67108864`` or ``"64m"`` (k, m, g, t: powers of 1024, as Spark writes them).

    Raises
    ------
    ValueError
        The text is no size, or not positive.
    """
    if not isinstance(text, str):
        if isinstance(text, bool) or not hasattr(text, "__index__"):
            raise ValueError(f"{setting}={text!r} is no size; write a whole number of bytes, or a text such as '64m'")
        size = operator.index(text)
    else:
        lowered = text.strip().lower().removesuffix("ib")
        if len(lowered) > 1 and lowered[-1] == "b" and lowered[-2] in "kmgt":
            lowered = lowered[:-1]
        unit = lowered[-1:] if lowered[-1:] in _UNITS and not lowered[-1:].isdigit() else ""
        try:
            size = int(float(lowered[: len(lowered) - len(unit)]) * _UNITS[unit])
        except (ValueError, OverflowError):
            raise ValueError(f"{setting}={text!r} is no size; write bytes or a number with k, m or g, such as '64m'") from None
    if size <= 0:
        raise ValueError(f"{setting}={text!r} must be more than zero bytes")
    return size


def default_slot_bytes(memory: int) -> int:
    """A sixteenth of the memory, 16 MiB at most."""
    return min(_SLOT_BYTES, memory // 16)


class Segment:
    """A mapped segment. ``create`` makes one, ``open`` attaches to somebody else's.

    Attributes
    ----------
    id : bytes
        Sixteen random bytes; an address names them, so a reused file descriptor is never taken for the segment.
    slot_bytes : int
        Bytes in a slot, a multiple of 4096.
    n_slots : int
    size : int
        Bytes of the whole segment, header included.
    fd : int
        Held open by the creator only; -1 elsewhere.
    """

    def __init__(self, fd: int, *, keep_fd: bool, owner: int = 0) -> None:
        self.fd = -1
        size = os.fstat(fd).st_size
        if size < HEADER_BYTES:
            raise AddressError(f"no segment of tfos_fast: {size} bytes")
        header = os.pread(fd, _HEADER.size, 0)
        self.id: bytes
        self.slot_bytes: int
        self.n_slots: int
        magic, version, self.id, total, self.slot_bytes, self.n_slots = _HEADER.unpack(header)
        if magic != _MAGIC:
            raise AddressError("no segment of tfos_fast: wrong magic number")
        if version != _VERSION:
            raise AddressError(
                f"the segment has layout version {version}, this tfos_fast reads {_VERSION}; use one version everywhere"
            )
        if total != size or total != HEADER_BYTES + self.slot_bytes * self.n_slots:
            raise AddressError(f"the segment's header says {total} bytes, the file has {size}")
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError:
            seals = 0  # a file of some file system
        if seals & _SEALS != _SEALS:
            raise AddressError("the segment is not sealed against truncation")
        self.size = size
        self._mapping: Mapping | None
        self._seen: set[int]
        if owner:
            kept = mapped(self.id, owner, lambda: Mapping(fd, size))
            self._mapping, self._seen = kept.mapping, kept.seen
        else:
            self._mapping, self._seen = Mapping(fd, size), set()
        if keep_fd:
            self.fd = fd

    @classmethod
    def create(cls, memory: int | str, slot_bytes: int | str | None = None) -> Segment:
        """Make a segment and reserve its pages.

        Parameters
        ----------
        memory : int or str
            Total size of the slots in bytes, or such as ``"64m"``.
        slot_bytes : int or str, optional
            Size of a slot; see :func:`default_slot_bytes`. The largest row must fit into one.

        Raises
        ------
        NotEnoughMemory
            The memory is not there (machine, or cgroup of this container).
        SegmentError
            Fewer than four slots would result.
        UnsupportedPlatform
            The kernel refuses to make a memfd.
        """
        wanted = parse_bytes(memory)
        slot = default_slot_bytes(wanted) if slot_bytes is None else parse_bytes(slot_bytes, "slot_bytes")
        slot = max(_PAGE, slot // _PAGE * _PAGE)
        n_slots = wanted // slot
        if n_slots < MIN_SLOTS:
            raise SegmentError(
                f"memory={memory!r} makes {n_slots} slots of {slot} bytes, and at least {MIN_SLOTS} are needed; "
                f"raise memory to {MIN_SLOTS * slot} or lower slot_bytes"
            )
        total = HEADER_BYTES + n_slots * slot
        free, source = available_bytes()
        if total > free:
            raise NotEnoughMemory(_too_little(total, f"{free} bytes are free ({source})"))
        try:
            fd = os.memfd_create("tfos_fast", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise UnsupportedPlatform(explain("memfd_create", error)) from error
        try:
            os.ftruncate(fd, total)
            try:
                _use_huge_pages(fd, total)
                os.posix_fallocate(fd, 0, total)
            except OSError as error:
                if error.errno in (errno.ENOMEM, errno.ENOSPC):
                    raise NotEnoughMemory(_too_little(total, "the kernel refused to reserve them")) from error
                raise
            os.pwrite(fd, _HEADER.pack(_MAGIC, _VERSION, secrets.token_bytes(16), total, slot, n_slots), 0)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(fd, keep_fd=True)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def open(cls, pid: int, fd: int, identity: bytes) -> Segment:
        """Attach to the segment that process ``pid`` of this host and user holds as descriptor ``fd``. Memory is not copied.

        Raises
        ------
        AddressError
            The process is gone, belongs to another user or host, or holds something else there.
        """
        path = f"/proc/{pid}/fd/{fd}"
        try:
            here = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise AddressError(f"no segment at {path} on this host: {error.strerror}") from error
        try:
            segment = cls(here, keep_fd=False, owner=pid)
        finally:
            os.close(here)
        if segment.id != identity:
            raise AddressError(f"{path} is another segment than the address names")
        return segment

    @classmethod
    def adopt(cls, fd: int) -> Segment:
        """Take over a descriptor inherited from the creator."""
        return cls(fd, keep_fd=True)

    @property
    def mapping(self) -> Mapping:
        """The memory.

        Raises
        ------
        ChannelClosed
            This handle was closed.
        """
        if self._mapping is None:
            raise ChannelClosed("this handle on the segment is closed")
        return self._mapping

    def window(self, slot: int) -> Window:
        """The bytes of a slot that this process was granted. Memory is not copied."""
        return self.mapping.window(self._locate(slot), self.slot_bytes)

    def lease(self, slot: int, released: ReleaseSet) -> Lease:
        """The bytes of a slot that was delivered to this process; its number goes to ``released`` when the last user drops it."""
        return Lease(self.mapping, self._locate(slot), self.slot_bytes, released, slot)

    def _locate(self, slot: int) -> int:
        offset = HEADER_BYTES + slot * self.slot_bytes
        if slot not in self._seen:
            # Slot by slot: a short Spark task must not pay for the page table of the whole segment.
            self.mapping.populate(offset, self.slot_bytes)
            self._seen.add(slot)
        return offset

    def close(self) -> None:
        """Give up descriptor and mapping. The memory stays mapped until the last array that aliases it is gone."""
        self._mapping = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _use_huge_pages(fd: int, total: int) -> None:
    """Reserve the memory in huge pages, as far as the kernel has some: whoever reads it then waits less for the page table.

    The calls ask for it whatever ``/sys/kernel/mm/transparent_hugepage`` says of shared memory, which nearly everywhere is "never".
    """
    if os.environ.get("TFOS_HUGE_PAGES") == "0":
        return
    mapping = Mapping(fd, total)
    until = time.monotonic() + _HUGE_PAGES_S + total / _HUGE_PAGES_RATE
    for offset in range(0, total - HUGE_PAGE + 1, HUGE_PAGE):
        os.posix_fallocate(fd, offset, _PAGE)  # of nothing no page is made
        if not mapping.collapse(offset, HUGE_PAGE) or time.monotonic() > until:
            return


def _too_little(total: int, found: str) -> str:
    return f"the segment needs {total} bytes and {found}; lower the setting memory, or give the container or machine more"
