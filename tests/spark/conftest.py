"""A Spark per module, and a look for what a whole module left behind."""

from __future__ import annotations

import time

import pyspark
import pytest

from tests.conftest import our_processes, our_segments, our_sockets
from tests.spark import connects, sparks


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/spark/" in item.path.as_posix():
            item.add_marker(pytest.mark.spark)


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
    """The Spark that the module's ``MASTER`` names."""
    with sparks.spark(request.module.MASTER, **getattr(request.module, "SETTINGS", {})) as context:
        yield context


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
