"""One Spark for all modules here that do not bring their own."""

from __future__ import annotations

import os

import pytest

import tfos_fast
from tests.failures import points
from tests.spark import sparks
from tests.spark.conftest import nothing_left, out  # noqa: F401

SITE = os.path.join(os.path.dirname(__file__), "site")
WHOLE = bool(os.environ.get("TFOS_ALL_FAILURES"))
whole = pytest.mark.skipif(not WHOLE, reason="make failures runs it")


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    """Where plans and points are noted."""
    folder = tmp_path_factory.mktemp("failures")
    os.environ[points.FOLDER] = str(folder)
    yield folder
    del os.environ[points.FOLDER]


@pytest.fixture(scope="package")
def sc(folder):
    """Two executors of one core, whose processes know the points."""
    settings = {
        "spark.executorEnv.PYTHONPATH": f"{SITE}{os.pathsep}{sparks.ROOT}",
        f"spark.executorEnv.{points.FOLDER}": str(folder),
        # After this Spark takes an executor that is stopped for lost: longer than the timeouts of the rows.
        "spark.network.timeout": "16s",
        "spark.network.timeoutInterval": "3s",
        "spark.executor.heartbeatInterval": "3s",
    }
    with sparks.spark("local-cluster[2,1,1024]", **settings) as context:
        with tfos_fast.reserve(context, 2, memory="1m"):  # what comes first takes longest, and rows have timeouts
            pass
        yield context
