"""What real executors tell before anything is started: real misconfigurations, told at once and together."""

from __future__ import annotations

import logging
import re
import stat
import sys
from contextlib import contextmanager

import pytest

import tests.support.refuse_calls
import tfos_fast
from tests.spark import mains, sparks
from tests.spark.mains import noted
from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.preflight.survey import Survey
from tfos_fast.cluster.spark.context_engine import Classic
from tfos_fast.cluster.spark.placement import wait_for_slots
from tfos_fast.errors import (
    CoordinatorUnreachable,
    MissingDependency,
    NotEnoughMemory,
    NotEnoughSlots,
    PreflightFailed,
    SettingRefused,
    UnevenExecutors,
    UnsupportedPlatform,
    VersionMismatch,
)

MASTER = "local-cluster[2,1,1024]"
SETTINGS = {"spark.python.worker.reuse": "false", "spark.task.maxFailures": "1"}
SMALL = {"memory": "8m"}


@pytest.mark.long
def test_executors_that_differ(nothing_left, out):
    """Workers of one core and of two, which an application takes whole."""
    with sparks.standalone(workers=2, cores=[1, 2]) as master, sparks.spark(master, **{"spark.cores.max": "3"}) as sc:
        with pytest.raises(UnevenExecutors, match=r"between 1 and 2 cores.* set spark\.executor\.cores to 1"):
            tfos_fast.reserve(sc, 2, **SMALL)
        for nodes in (1, 3):  # one is on an executor of its own anyhow; three share executors
            with tfos_fast.run(sc, mains.collect, {"out": out}, nodes, **SMALL) as cluster:
                assert cluster.feed(sc.parallelize(range(30), 3)).rows == 30


@contextmanager
def python(sc, path):
    """Another Python on the executors."""
    before, sc.pythonExec = sc.pythonExec, str(path)
    try:
        yield
    finally:
        sc.pythonExec = before


def script(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_all_that_is_wrong_is_told_together(sc):
    wait_for_slots(Classic(sc), 2, 30.0)
    coordinator = Coordinator("127.0.0.1", "192.0.2.1")  # an address for documentation (RFC 5737): nobody has it
    try:
        with pytest.raises(PreflightFailed, match="3 things stand in the way of the cluster; nothing was started") as caught:
            Survey(Classic(sc), coordinator, 3, 100 << 40, 30.0).check()
    finally:
        coordinator.close()
    slots, unreachable, memory = caught.value.problems
    assert [type(slots), type(unreachable), type(memory)] == [NotEnoughSlots, CoordinatorUnreachable, NotEnoughMemory]
    assert "each of 2 executors on" in str(unreachable)
    assert "cannot reach the coordinator of the driver at tcp://192.0.2.1:" in str(unreachable)
    assert "server_host (or set TFOS_SERVER_HOST, or spark.driver.host)" in str(unreachable)
    assert "lower the setting memory" in str(memory)


def test_dynamic_allocation_is_refused(sc):
    settings = sc._conf
    settings.set("spark.dynamicAllocation.enabled", "true")
    try:
        with pytest.raises(SettingRefused, match=r"spark\.dynamicAllocation\.enabled is true.* set it to false"):
            tfos_fast.reserve(sc, 2, **SMALL)
    finally:
        settings.set("spark.dynamicAllocation.enabled", "false")


def test_another_python_on_the_executors(sc, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import collections, sys\n"
        "kind = collections.namedtuple('version_info', 'major minor micro releaselevel serial')\n"
        "sys.version_info = kind(3, 5, *sys.version_info[2:])\n"
    )
    stand_in = script(tmp_path / "python3.5", f'#!/bin/sh\nPYTHONPATH="{tmp_path}:$PYTHONPATH" exec {sys.executable} "$@"\n')
    driver = f"{sys.version_info[0]}.{sys.version_info[1]}"
    with (
        python(sc, stand_in),
        pytest.raises(VersionMismatch, match=rf"run Python 3\.5 and the driver runs {driver}.*PYSPARK_PYTHON"),
    ):
        tfos_fast.reserve(sc, 2, **SMALL)
    with (
        python(sc, tmp_path / "not-there"),
        pytest.raises(MissingDependency, match=r"have no Python .*/not-there; set the environment variable PYSPARK_PYTHON"),
    ):
        tfos_fast.reserve(sc, 2, **SMALL)


def test_executors_whose_container_refuses_system_calls(sc, tmp_path):
    refuse = tests.support.refuse_calls.__file__
    stand_in = script(
        tmp_path / "python", f'#!/bin/sh\nexec {sys.executable} {refuse} EPERM memfd_create,pidfd_open {sys.executable} "$@"\n'
    )
    with python(sc, stand_in), pytest.raises(PreflightFailed, match="2 things stand in the way") as caught:
        tfos_fast.reserve(sc, 2, **SMALL)
    assert [type(problem) for problem in caught.value.problems] == [UnsupportedPlatform] * 2
    for problem, call in zip(caught.value.problems, ("memfd_create", "pidfd_open"), strict=True):
        words = rf"^on each of 2 executors on \S+, the system call {call} fails with EPERM on Linux .* profile that allows {call}$"
        assert re.search(words, str(problem))


def test_another_version_of_a_library(sc, tmp_path):
    (tmp_path / "numpy-1.26.4.dist-info").mkdir()
    (tmp_path / "numpy-1.26.4.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.26.4\n")
    stand_in = script(tmp_path / "python", f'#!/bin/sh\nPYTHONPATH="{tmp_path}:$PYTHONPATH" exec {sys.executable} "$@"\n')
    with python(sc, stand_in), pytest.raises(VersionMismatch, match=r"numpy 1\.26\.4 and the driver has"):
        tfos_fast.reserve(sc, 2, **SMALL)


def test_python_workers_that_are_not_reused_do_and_are_advised_against(sc, out, caplog):
    with caplog.at_level(logging.WARNING, "tfos_fast.cluster"):
        with tfos_fast.run(sc, mains.collect, {"out": out}, 1, **SMALL) as cluster:
            cluster.feed(sc.parallelize([5, 7], 1))
    assert noted(out) == {0: [5, 7]}
    assert "spark.python.worker.reuse is false" in caplog.text
