"""The driver is killed: nothing of a cluster outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.spark.sparks import ROOT
from tests.support.leaks import our_processes
from tests.support.spark_feeds import wait_for

DRIVER = """
import sys, time
import tfos_fast
from tests.spark import mains
from tests.spark.sparks import spark
from tests.support.spark_feeds import fed, numbered, wait_for
master, out = sys.argv[1:]
with spark(master) as sc:
    import threading
    reserved = tfos_fast.reserve(sc, 2, memory="8m")
    cluster = tfos_fast.run(sc, mains.slow, {"out": out}, 2, memory="8m")
    threading.Thread(target=lambda: cluster.feed(numbered(sc, [100_000] * 4)), daemon=True).start()
    wait_for(lambda: fed(cluster, "worker:0") and fed(cluster, "worker:1"), "rows")
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("master", [pytest.param("local[2]", marks=pytest.mark.long), "local-cluster[2,1,1024]"])
def test_nothing_outlives_a_killed_driver(tmp_path, master):
    """One of its clusters is reserved, one is fed."""
    before = set(our_processes())
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, master, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        cwd=tmp_path,
        text=True,
    )
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        ours = {pid for pid in our_processes() if pid not in before}
        assert len(ours) == 10, "agents with a parent each, and trainers of the one that is fed"
        family = psutil.Process(driver.pid).children(recursive=True)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver.stdout.close()
    wait_for(lambda: not ours & set(our_processes()), "the end of agents and trainers")
    _, alive = psutil.wait_procs(family, 30)  # the JVMs, which would count as a leak of the test
    assert not alive
