"""The rows of an epoch, kept by their reader for those that follow: delivered slots, copied compactly into a file without a name.

``memory`` is a memfd, ``disk`` an unlinked temporary file. Both are written with ``pwrite`` and mapped privately, writable and anew
for each replay: a program that changes its arrays in place changes its own copy of a page, never what is kept, and an epoch begins
with the values that were fed. The kernel frees the file with its last holder, so nothing is left behind, however the process ends.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import tempfile
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from tfos_fast.channel.codec.layout import ALIGNMENT, Layout, layout
from tfos_fast.channel.host.memory import available_bytes
from tfos_fast.errors import NotEnoughMemory, StoreFull

CHUNK_BYTES = 64 << 20  # the file grows by so much, and so much is mapped at once
_PAGE = mmap.ALLOCATIONGRANULARITY
_POPULATE_READ = 22  # MADV_POPULATE_READ of <linux/mman.h>, Linux 5.14
# Kinds whose regions hold values, nothing, or (offset, length).
_KNOWN = {"fixed", "null", "unused", "string", "bytes", "object", "ragged"}


@dataclass(frozen=True)
class Block:
    """A kept slot: where it lies in the file, and how it is laid out."""

    layout: Layout
    rows: int
    lane: int
    chunk: int
    offset: int  # from the chunk's start, a multiple of 64


def used_parts(where: Layout, slot: np.ndarray, rows: int) -> tuple[Layout, list[tuple[int, np.ndarray]]]:
    """What the rows use of a slot: a tighter layout, and what goes where in it. Memory is copied only for offsets into the heap.

    Parameters
    ----------
    where : Layout
        The slot's layout.
    slot : ndarray
        The slot's bytes, uint8.
    rows : int

    Returns
    -------
    layout : Layout
        ``slot_bytes`` is what it needs.
    parts : list of (int, ndarray)
        (offset in the new layout, uint8 bytes).
    """
    columns = where.schema.columns
    if any(column.kind not in _KNOWN for column in columns):
        return where, [(0, slot[: where.slot_bytes])]  # of no kind that is known here: the slot as it is
    tight = layout(where.schema, rows, where.slot_bytes)
    parts: list[tuple[int, np.ndarray]] = []
    end = where.heap
    for column, old, new in zip(columns, where.offsets, tight.offsets, strict=True):
        region = slot[old : old + rows * column.row_bytes]
        if column.in_heap and rows:
            pairs = region.view(np.uint32).reshape(rows, 2).astype(np.int64)
            filled = pairs[:, 1] > 0
            if filled.any():
                if pairs[filled, 0].min() < where.heap:
                    raise ValueError("a damaged slot: a value lies before the heap")
                end = max(end, int(pairs[filled].sum(axis=1).max()))
            pairs[:, 0] = np.where(filled, pairs[:, 0] - where.heap + tight.heap, tight.heap)
            region = np.ascontiguousarray(pairs.astype(np.uint32)).view(np.uint8).reshape(-1)
        parts.append((new, region))
    for old, new in zip(where.masks, tight.masks, strict=True):
        if old >= 0:
            parts.append((new, slot[old : old + rows]))
    if end > where.slot_bytes:
        raise ValueError("a damaged slot: a value ends behind the slot")
    parts.append((tight.heap, slot[where.heap : end]))
    size = max(tight.heap + end - where.heap, 1)  # numpy makes no array of an empty buffer
    return msgspec.structs.replace(tight, slot_bytes=size), parts


def disk_directory() -> str:
    """Where ``disk`` puts its file: the first of Spark's local folders that can be written, else the temporary folder."""
    for name in os.environ.get("SPARK_LOCAL_DIRS", "").split(","):
        if name and os.access(name, os.W_OK | os.X_OK):
            return name
    return tempfile.gettempdir()


class Store:
    """Kept slots, of bounded size.

    Parameters
    ----------
    kind : {"memory", "disk"}
    limit : int
        Bytes that it may use; 0: half of what is free now.

    Attributes
    ----------
    entries : list
        In the order of delivery: a Block, or the number of a lane that has ended.
    rows : int
    used : int
        Bytes of the file.
    """

    def __init__(self, kind: str, limit: int = 0) -> None:
        self.kind = kind
        self.entries: list[Block | int] = []
        self.rows = 0
        self.used = 0
        self._chunks: list[tuple[int, int]] = []  # (offset in the file, bytes)
        self._fill = 0  # bytes used of the last chunk
        self._directory = "" if kind == "memory" else disk_directory()
        free, source = self._free()
        self._why = "keep_limit" if limit else f"half of the {free} bytes that were free at the beginning ({source})"
        self.limit = limit or free // 2
        if kind == "memory":
            self._fd = os.memfd_create("tfos_fast_keep", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
                self._fd = os.dup(file.fileno())

    def add(self, where: Layout, slot: Any, rows: int, lane: int) -> None:
        """Keep a slot's rows. Values are copied; the slot may go back afterwards.

        Raises
        ------
        NotEnoughMemory, StoreFull
            The limit, the memory or the disk is used up.
        """
        tight, parts = used_parts(where, np.frombuffer(slot, np.uint8), rows)
        chunk, offset = self._room(tight.slot_bytes)
        base = self._chunks[chunk][0] + offset
        for at, part in parts:
            self._write(part, base + at)
        self.entries.append(Block(tight, rows, lane, chunk, offset))
        self.rows += rows

    def end_lane(self, lane: int) -> None:
        """Nothing more comes in this lane."""
        self.entries.append(lane)

    def view(self) -> View:
        """The kept slots for one replay."""
        return View(self._fd, self._chunks, populate=self.kind == "memory")

    def close(self) -> None:
        """Give the file up. Arrays that alias it stay valid, and keep their part of it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()  # of a reader that was dropped without close

    def _room(self, size: int) -> tuple[int, int]:
        start = -(-self._fill // ALIGNMENT) * ALIGNMENT
        if not self._chunks or start + size > self._chunks[-1][1]:
            self._grow(size)
            start = 0
        self._fill = start + size
        return len(self._chunks) - 1, start

    def _grow(self, size: int) -> None:
        least = -(-size // _PAGE) * _PAGE
        length = max(least, min(CHUNK_BYTES, (self.limit - self.used) // _PAGE * _PAGE))
        free, source = self._free()
        if self.used + length > self.limit:
            raise self._full(f"the limit is {self.limit} bytes: {self._why}")
        if length > free:
            raise self._full(f"{free} bytes are free ({source})")
        try:
            os.posix_fallocate(self._fd, self.used, length)  # reserved: a mapping of it never meets a hole
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT, errno.EFBIG):
                raise
            raise self._full(f"the kernel refused {length} more bytes: {error.strerror}") from error
        self._chunks.append((self.used, length))
        self.used += length

    def _full(self, found: str) -> Exception:
        text = f"keep={self.kind!r} has kept {self.rows} rows in {self.used} bytes, more are to come, and {found}. "
        if self.kind == "memory":
            return NotEnoughMemory(text + "Raise keep_limit (bytes per node), feed from more nodes, or use keep='disk'.")
        return StoreFull(text + f"Raise keep_limit (bytes per node), or make room in {self._directory} (spark.local.dir).")

    def _free(self) -> tuple[int, str]:
        if self.kind == "memory":
            return available_bytes()
        stat = os.statvfs(self._directory)
        return stat.f_bavail * stat.f_frsize, self._directory

    def _write(self, part: np.ndarray, at: int) -> None:
        left = memoryview(part.data)
        while left:
            try:
                done = os.pwrite(self._fd, left, at)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise self._full(f"the disk is full: {error.strerror}") from error
                raise
            left, at = left[done:], at + done


class View:
    """The store's mapping for one replay: chunk by chunk, when a block of it is asked for."""

    def __init__(self, fd: int, chunks: list[tuple[int, int]], *, populate: bool) -> None:
        self._fd = fd
        self._chunks = chunks
        self._populate = populate
        self._maps: dict[int, mmap.mmap] = {}

    def buffer(self, block: Block) -> memoryview:
        """The block's bytes, writable and private. Memory is not copied; whatever aliases them keeps the mapping."""
        return memoryview(self._map(block.chunk))[block.offset : block.offset + block.layout.slot_bytes]

    def fetch(self, block: Block) -> None:
        """The block will be read soon: enter its pages in one call (memory), or begin to read them (disk)."""
        start = block.offset // _PAGE * _PAGE
        advice = _POPULATE_READ if self._populate else mmap.MADV_WILLNEED
        with contextlib.suppress(OSError):  # an older kernel: pages then come one by one
            self._map(block.chunk).madvise(advice, start, block.offset + block.layout.slot_bytes - start)

    def _map(self, chunk: int) -> mmap.mmap:
        if chunk not in self._maps:
            offset, length = self._chunks[chunk]
            self._maps[chunk] = mmap.mmap(
                self._fd, length, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=offset
            )
        return self._maps[chunk]
