"""The segment: seals, limits, and what attaching checks."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import re
from pathlib import Path

import numpy as np
import pytest

from tfos_fast.channel.host import memory as memories
from tfos_fast.channel.host import segment as segments
from tfos_fast.channel.host.memory import available_bytes
from tfos_fast.channel.host.segment import HEADER_BYTES, Segment, parse_bytes
from tfos_fast.errors import AddressError, ChannelClosed, NotEnoughMemory, SegmentError
from tfos_fast.native.shared_memory import HUGE_PAGE, Lease, Mapping, ReleaseSet, Window


@pytest.fixture
def segment():
    made = Segment.create("1m", "64k")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        ("17", 17),
        ("2k", 2048),
        ("64m", 64 << 20),
        ("1.5g", 3 << 29),
        ("4MiB", 4 << 20),
        ("4mb", 4 << 20),
        (" 8 k", 8192),
        ("9b", 9),
    ],
)
def test_sizes(text: int | str, size: int):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "m", "lots", "-1", "0", 0, -5, "1x", "nan", "inf"])
def test_bad_sizes_name_the_setting(text: int | str):
    with pytest.raises(ValueError, match="slot_bytes="):
        parse_bytes(text, "slot_bytes")


def test_pages_are_reserved_and_sealed(segment: Segment):
    assert segment.size == HEADER_BYTES + 16 * 65536
    assert os.fstat(segment.fd).st_blocks * 512 >= segment.size
    seals = fcntl.fcntl(segment.fd, fcntl.F_GET_SEALS)
    assert seals & fcntl.F_SEAL_SHRINK
    for size in (0, segment.size - 1, segment.size + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(segment.fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(segment.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    assert os.get_inheritable(segment.fd) is False


def test_both_see_the_same_memory(segment: Segment):
    other = Segment.open(os.getpid(), segment.fd, segment.id)
    assert (other.size, other.slot_bytes, other.n_slots, other.fd) == (segment.size, 65536, 16, -1)
    np.frombuffer(segment.window(15), np.uint8)[:] = 7
    assert (np.frombuffer(other.window(15), np.uint8) == 7).all()
    assert (np.frombuffer(other.window(14), np.uint8) == 0).all()
    assert all(segment.window(slot).address % 4096 == 0 for slot in range(16))
    other.close()
    with pytest.raises(ChannelClosed):
        other.window(0)


@pytest.mark.parametrize("slot", [-1, 16, 2**40])
def test_windows_outside_are_refused(segment: Segment, slot: int):
    with pytest.raises((ValueError, OverflowError)):
        segment.window(slot)
    with pytest.raises((ValueError, OverflowError)):
        segment.lease(slot, ReleaseSet(16))


def memfd(header: bytes, size: int, seals: int = segments._SEALS) -> int:
    fd = os.memfd_create("other", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    os.pwrite(fd, header, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def test_attaching_checks_identity_magic_version_size_and_seals(segment: Segment, tmp_path: Path):
    me, size = os.getpid(), segment.size
    with pytest.raises(AddressError, match="another segment"):
        Segment.open(me, segment.fd, b"0" * 16)
    pack = segments._HEADER.pack
    good = (segments._MAGIC, segments._VERSION, segment.id, size, 65536, 16)
    cases = {
        "wrong magic": (pack(b"SOMEBODY", *good[1:]), size, segments._SEALS),
        "layout version 99": (pack(good[0], 99, *good[2:]), size, segments._SEALS),
        "header says": (pack(*good), size - 4096, segments._SEALS),
        "header says ": (pack(*good[:5], 15), size, segments._SEALS),
        "not sealed": (pack(*good), size, fcntl.F_SEAL_GROW),
        "bytes": (b"", 10, segments._SEALS),
    }
    for text, (header, length, seals) in cases.items():
        fd = memfd(header, length, seals)
        with pytest.raises(AddressError, match=text.strip()):
            Segment.open(me, fd, segment.id)
        os.close(fd)
    plain = tmp_path / "file"
    plain.write_bytes(pack(*good).ljust(size, b"\0"))
    with plain.open("r+b") as file, pytest.raises(AddressError, match="not sealed"):
        Segment.open(me, file.fileno(), segment.id)
    with pytest.raises(AddressError, match="no segment at"):
        Segment.open(me, 9999, segment.id)
    with pytest.raises(AddressError, match="no segment at"):
        Segment.open(2**22 + 1, 3, segment.id)


def test_too_little_memory_says_how_much_and_which_setting():
    free, source = available_bytes()
    assert free > 0
    assert source
    with pytest.raises(NotEnoughMemory, match=r"needs \d+ bytes and \d+ bytes are free .*setting memory"):
        Segment.create(free * 2)
    with pytest.raises(SegmentError, match=r"at least 4 are needed; raise memory to 16384"):
        Segment.create("12k", "4k")
    assert not [fd for fd in os.listdir("/proc/self/fd") if _is_ours(fd)]


def _is_ours(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:tfos_fast")
    except OSError:
        return False


def test_the_limit_of_the_cgroup_counts_and_file_caches_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "memory.max").write_text("10000000\n")
    (tmp_path / "memory.current").write_text("9000000\n")
    (tmp_path / "memory.stat").write_text("anon 1000000\ninactive_file 8000000\n")
    monkeypatch.setattr(memories, "_cgroup_files", lambda: [(tmp_path / "memory.max", tmp_path / "memory.current")])
    assert available_bytes() == (9_000_000, str(tmp_path / "memory.max"))
    with pytest.raises(NotEnoughMemory, match=r"9000000 bytes are free .*memory\.max"):
        Segment.create("16m")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes()[0] > 9_000_000


def test_memory_stays_mapped_until_the_last_array_is_gone():
    segment = Segment.create("64k", "4k")
    array = np.frombuffer(segment.window(3), np.int64)
    array[:] = 5
    segment.close()
    segment.close()
    gc.collect()
    assert (array == 5).all()
    where = f"{array.ctypes.data - HEADER_BYTES - 3 * 4096:x}-"
    assert where in Path("/proc/self/maps").read_text()
    del array
    assert where not in Path("/proc/self/maps").read_text()


def test_large_segments_lie_in_huge_pages():
    segment = Segment.create("32m")
    fresh = Segment.open(os.getpid(), segment.fd, segment.id)  # as other processes map it
    assert fresh.mapping.address % HUGE_PAGE == 0
    assert huge(fresh) == 0
    assert not np.frombuffer(fresh.window(1), np.uint8).any()
    found = huge(fresh)
    segment.close()
    if not found:
        pytest.skip("the kernel has no huge pages to spare, or is older than 6.1")
    assert found == 4 << 10  # a slot of 2 MiB behind the header lies in two of them


def test_huge_pages_can_be_switched_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TFOS_HUGE_PAGES", "0")
    segment = Segment.create("32m")
    assert not np.frombuffer(segment.window(1), np.uint8).any()
    assert huge(segment) == 0
    segment.close()


def huge(segment: Segment) -> int:
    """KiB of the segment that are mapped by huge pages here."""
    found = Path("/proc/self/smaps").read_text().partition(f"{segment.mapping.address:x}-")[2]
    return int(re.search(r"ShmemPmdMapped:\s+(\d+)", found).group(1))


def test_a_segment_is_reserved_whole_without_huge_pages(monkeypatch: pytest.MonkeyPatch):
    """The kernel takes too long to find some."""
    monkeypatch.setattr(segments, "_HUGE_PAGES_S", -60.0)
    segment = Segment.create("32m")
    assert os.stat(segment.fd).st_blocks * 512 == segment.size
    assert not np.frombuffer(segment.window(3), np.uint8).any()
    segment.close()


def test_a_lease_ends_with_its_last_user_and_rings_once(segment: Segment):
    released = ReleaseSet(16)
    first, second = segment.lease(2, released), segment.lease(5, released)
    assert isinstance(first, Lease)
    assert isinstance(first, Window)
    array = np.frombuffer(first, np.float32)
    view = memoryview(second)
    del first, second
    assert released.drain() == []
    capsule = array[:16].__dlpack__()
    del array
    assert released.drain() == []
    del capsule
    view.release()
    del view
    assert released.drain() == [2, 5]
    assert released.drain() == []
    big = ReleaseSet(200)
    leases = [segment.lease(slot % 16, big) for slot in range(16)]
    del leases
    assert big.drain() == list(range(16))


def test_a_mapping_that_cannot_be_made():
    with pytest.raises(OSError, match="mmap of"):
        Mapping(-1, mmap.PAGESIZE)
