"""Fixtures of all tests: a test that leaves a process, a segment or a socket file behind fails."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterator

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

# A failed assert in a helper shows its values, as one in a test does.
pytest.register_assert_rewrite("tests.support")
from tests.support.leaks import our_processes, our_segments, our_sockets  # noqa: E402

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
