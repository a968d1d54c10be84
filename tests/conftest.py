"""Fixtures of all tests: a test that leaves a process, a segment or a socket file behind fails."""

from __future__ import annotations

import atexit
import gc
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import tfos_fast._copy
import tfos_fast._pack
import tfos_fast._proof
import tfos_fast._segment
import tfos_fast._stream
import tfos_fast._stream_pack
import tfos_fast._unpack
import tfos_fast.channel
from tfos_fast.channel.processes import runtime_base

for _module in (
    tfos_fast._copy,
    tfos_fast._pack,
    tfos_fast._proof,
    tfos_fast._segment,
    tfos_fast._stream,
    tfos_fast._stream_pack,
    tfos_fast._unpack,
):
    assert _module.__file__.endswith(".so"), f"{_module.__name__} is not compiled"


# A shell that runs us in the background has Ctrl-C ignored, here and in every child; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Everything that this run starts inherits these two, so that runs side by side do not take each other's processes for leaks.
MARK = f"TFOS_TEST_RUN={secrets.token_hex(8)}"
os.environ.update([MARK.split("=")])
os.environ["TFOS_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="tfos-test-")
atexit.register(shutil.rmtree, os.environ["TFOS_RUNTIME_DIR"], ignore_errors=True)


def of_this_run(pid: int | str) -> bool:
    """Whether this run started the process (or is it)."""
    try:
        return pid in (os.getpid(), str(os.getpid())) or MARK.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def our_processes() -> dict[int, str]:
    """Brokers, agents and trainers on this host: pid -> command line."""
    found = {}
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            ours = any(part.startswith("tfos_fast.") for part in command) and of_this_run(process.pid)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(command)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def our_segments() -> dict[str, str]:
    """Segments that some process has open, or that this process or one of Spark's workers has mapped."""
    found = {}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("/memfd:tfos_fast") and of_this_run(link.parts[2]):
            found[str(link)] = target
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/memfd:tfos_fast" in line:
            found[line.split()[4]] = "mapped here"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            worker = b"pyspark.daemon" in (process / "cmdline").read_bytes() and of_this_run(process.name)
            if worker and "/memfd:tfos_fast" in (process / "maps").read_text():
                found[str(process)] = "mapped by a worker of Spark"
        except OSError:
            continue
    return found


def our_sockets() -> dict[str, str]:
    """What lies in this user's runtime folder."""
    return {str(path): "runtime directory" for path in runtime_base().iterdir()}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick tests first; what takes long is left out."""
    items.sort(key=lambda item: "tests/unit/" not in item.path.as_posix())
    if not os.environ.get("TFOS_LONG"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="make test-long runs it"))


def pytest_collection_finish() -> None:
    """Every test ends with a garbage collection, which must not look at all of TensorFlow each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember a failure: the frames of its traceback keep arrays, and so mappings, alive."""
    outcome = yield
    if outcome.get_result().failed:  # type: ignore[attr-defined]
        item.failed = True  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare processes, segments and socket folders before and after; wait a little, since endings take a moment."""
    looks = (our_processes, our_segments, our_sockets)
    before = [set(look()) for look in looks]
    yield
    if getattr(request.node, "failed", False):
        return
    deadline = time.monotonic() + 10
    while True:
        gc.collect()
        left = {key: what for look, old in zip(looks, before, strict=True) for key, what in look().items() if key not in old}
        if not left:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {left}")
        time.sleep(0.1)
