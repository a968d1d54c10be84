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

import pytest

import tfos_fast.channel
import tfos_fast.native.dlpack
import tfos_fast.native.fingerprint
import tfos_fast.native.nt_copy
import tfos_fast.native.pickled.batch
import tfos_fast.native.pickled.pack_rows
import tfos_fast.native.row_decoder
import tfos_fast.native.row_packer
import tfos_fast.native.shared_memory
from tfos_fast.channel.host.processes import runtime_base

for _module in (
    tfos_fast.native.nt_copy,
    tfos_fast.native.dlpack,
    tfos_fast.native.row_packer,
    tfos_fast.native.fingerprint,
    tfos_fast.native.shared_memory,
    tfos_fast.native.pickled.batch,
    tfos_fast.native.pickled.pack_rows,
    tfos_fast.native.row_decoder,
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


def _of_this_run() -> list[str]:
    """The pids of what this run started, and its own."""
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and of_this_run(pid)]


def our_processes() -> dict[int, str]:
    """Brokers, agents and trainers on this host: pid -> command line."""
    found = {}
    for pid in _of_this_run():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        # A zombie has no command line.
        if any(part.startswith("tfos_fast.") for part in command):
            found[int(pid)] = " ".join(command).strip()
    return found


def our_segments() -> dict[str, str]:
    """Segments that some process has open, or that this process or one of Spark's workers has mapped."""
    found = {}
    for pid in _of_this_run():
        try:
            for entry in os.scandir(f"/proc/{pid}/fd"):
                try:
                    target = os.readlink(entry.path)
                except OSError:
                    continue
                if target.startswith("/memfd:tfos_fast"):
                    found[entry.path] = target
            me = pid == str(os.getpid())
            if not me and b"pyspark.daemon" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                continue
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                if "/memfd:tfos_fast" in line:
                    found[line.split()[4] if me else f"/proc/{pid}"] = "mapped here" if me else "mapped by a worker of Spark"
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


LOOKS = (our_processes, our_segments, our_sockets)
# What the last test left is what the next one begins with, but where a fixture of several tests came or went in between.
_known: list[list[set]] = []


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef) -> None:
    """A fixture of several tests may bring processes."""
    if fixturedef.scope != "function":
        _known.clear()


def pytest_fixture_post_finalizer(fixturedef: pytest.FixtureDef) -> None:
    """A fixture of several tests has taken its processes along."""
    if fixturedef.scope != "function":
        _known.clear()


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare processes, segments and socket folders before and after; wait a little, since endings take a moment."""
    before = _known.pop() if _known else [set(look()) for look in LOOKS]
    yield
    if getattr(request.node, "failed", False):
        return
    deadline = time.monotonic() + 10
    while True:
        now = [look() for look in LOOKS]
        left = {key: what for seen, old in zip(now, before, strict=True) for key, what in seen.items() if key not in old}
        if not left:
            _known[:] = [[set(seen) for seen in now]]
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {left}")
        gc.collect()  # an array in a cycle keeps its mapping
        time.sleep(0.02)
