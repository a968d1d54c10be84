"""A Spark for all modules that want the same, and a look for what a whole module left behind."""

from __future__ import annotations

import time

import pyspark
import pytest

from tests.spark import connects, sparks
from tests.support.leaks import our_processes, our_segments, our_sockets


def _wanted(item):
    """Which Spark the test's module gets from ``sc`` below, None when it brings its own."""
    master = getattr(item.module, "MASTER", None)
    return master and repr((master, getattr(item.module, "SETTINGS", {})))


def pytest_collection_modifyitems(items):
    """Modules that want the same Spark come one after the other."""
    first = {}
    ranks = {}
    for number, item in enumerate(items):
        here = "tests/spark/" in item.path.as_posix()
        if here:
            item.add_marker(pytest.mark.spark)
        wanted = _wanted(item) if here else None
        ranks[item] = first.setdefault(wanted, number) if wanted else number
    items.sort(key=ranks.__getitem__)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item, nextitem):
    yield
    if nextitem is None or _wanted(item) != _wanted(nextitem):
        sparks.close_shared()


def _left(before):
    return [set(look()) - old for look, old in zip((our_processes, our_segments, our_sockets), before, strict=True)]


@pytest.fixture(scope="module")
def nothing_left():
    """The fixtures that depend on this one leave nothing when the module is over."""
    before = [set(look()) for look in (our_processes, our_segments, our_sockets)]
    yield
    deadline = time.monotonic() + 10
    while any(_left(before)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_left(before)), _left(before)


@pytest.fixture(scope="module")
def sc(request, nothing_left):
    """The Spark that the module's ``MASTER`` and ``SETTINGS`` name, as the module before left it where that had the same."""
    return sparks.shared(request.module.MASTER, **getattr(request.module, "SETTINGS", {}))


@pytest.fixture(scope="module")
def server(request, nothing_left):
    """The address of a Spark Connect server, whose master is the module's ``MASTER``."""
    if pyspark.__version__.startswith("3."):
        pytest.skip("sessions of Spark Connect can be used from Spark 4.0 on")
    with connects.server(request.module.MASTER, **getattr(request.module, "SETTINGS", {})) as address:
        yield address


@pytest.fixture(scope="module")
def connect(server):
    """A session at the module's Spark Connect server."""
    with connects.session(server) as session:
        yield session


@pytest.fixture
def out(tmp_path):
    """Where the nodes leave what they saw."""
    return str(tmp_path)
