"""What becomes of a cluster whose driver ends without a shutdown, raises, gets Ctrl-C, or is stopped for long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

from tests.failures.conftest import whole
from tests.spark.mains import noted
from tests.spark.sparks import ROOT
from tests.support.leaks import our_processes
from tests.support.spark_feeds import wait_for

pytestmark = [pytest.mark.spark, pytest.mark.timeout(180)]


@contextmanager
def driver(how, out):
    """The driver with its nodes fed, the processes of these, and nothing of it left in the end."""
    before = set(our_processes())
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.failures.driver", how, str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=str(ROOT)), cwd=out, text=True,
    )  # fmt: skip
    family = []
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        family = psutil.Process(process.pid).children(recursive=True)
        ours = {pid for pid in our_processes() if pid not in before}
        assert len(ours) >= 4
        yield process, ours
        wait_for(lambda: not ours & set(our_processes()), "the end of agents and trainers")
        _, alive = psutil.wait_procs(family, 30)
        assert not alive
    finally:
        process.kill()
        process.communicate()
        for child in family:
            if child.is_running():
                child.kill()


@whole
@pytest.mark.parametrize("how", ["exit", "exception"])
def test_a_driver_that_ends_without_shutdown_takes_its_nodes_along(tmp_path, how):
    with driver(how, tmp_path) as (process, _):
        _, errors = process.communicate(timeout=60)
        assert ("planned for the driver" in errors) == (how == "exception")
        assert process.returncode == (how == "exception")


def test_a_driver_that_ends_after_the_feed_shuts_down(tmp_path):
    """At the interpreter's exit: it waits for ``main``, and nothing is left."""
    with driver("idle", tmp_path) as (process, _):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "the driver ends without shutdown(): it waits up to 30 s for main to return" in errors
    assert sorted(row for rows in noted(tmp_path).values() for row in rows) == [[p, i] for p in range(2) for i in range(50)]


def test_ctrl_c_cancels_the_feed(tmp_path):
    with driver("interrupt", tmp_path) as (process, _):
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert output.startswith("interrupted\nno job"), output


@whole
def test_nodes_of_a_stopped_driver_end_and_it_hears_of_them(tmp_path, record_property):
    with driver("stop", tmp_path) as (process, ours):
        begin = time.monotonic()
        process.send_signal(signal.SIGSTOP)
        try:
            wait_for(lambda: not ours & set(our_processes()), "the end of the nodes", 60)
        finally:
            process.send_signal(signal.SIGCONT)
        record_property("seconds", time.monotonic() - begin)
        output, _ = process.communicate(timeout=60)
        assert output.startswith("NodeLost worker:"), output
