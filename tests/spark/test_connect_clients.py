"""Spark Connect in other surroundings: a server in the client's own process, a client that is killed, bare executors, GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import cloudpickle
import psutil
import pyspark.cloudpickle
import pytest

import tfos_fast
from tests.spark import connects, mains, sparks, test_gpus
from tests.spark.bare import bare_python
from tests.spark.mains import noted
from tests.spark.sparks import ROOT
from tests.spark.test_connect import ids
from tests.support.leaks import our_processes
from tests.support.spark_feeds import wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

LOCAL = """
import sys
from pyspark.sql import SparkSession
import tfos_fast
from tests.spark import mains
spark = SparkSession.builder.remote("local[2]").config("spark.ui.enabled", "false").getOrCreate()
with tfos_fast.run(spark, mains.collect, {"out": sys.argv[1]}, 2, memory="8m") as cluster:
    print(cluster.feed(spark.range(0, 1000, 1, 4)).rows, flush=True)
spark.stop()
"""

KILLED = """
import sys, threading, time
from pyspark.sql import SparkSession
import tfos_fast
from tests.spark import mains
from tests.support.spark_feeds import fed, wait_for
spark = SparkSession.builder.remote(sys.argv[1]).getOrCreate()
cluster = tfos_fast.run(spark, mains.slow, {"out": sys.argv[2]}, 2, memory="8m", relay=True)
threading.Thread(target=lambda: cluster.feed(spark.range(0, 400_000, 1, 4)), daemon=True).start()
wait_for(lambda: fed(cluster, "worker:0") or fed(cluster, "worker:1"), "rows")
print("ready", flush=True)
time.sleep(600)
"""


def client(program, *arguments, **settings):
    env = dict(os.environ, PYTHONPATH=str(ROOT), PYSPARK_PYTHON=sys.executable, **settings)
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, env=env, text=True)


def test_a_server_that_the_client_starts(out, nothing_left):
    with client(LOCAL, out, SPARK_TESTING="1") as process:  # any port for the server
        family = psutil.Process(process.pid).children(recursive=True)
        said, _ = process.communicate(timeout=150)
        assert said.splitlines()[-1] == "1000"
        assert process.returncode == 0
    assert ids(noted(out)) == [*range(1000)]
    psutil.wait_procs(family, 30)


def test_nothing_outlives_a_killed_client(out, nothing_left):
    with connects.server("local-cluster[2,2,1024]") as address:
        before = set(our_processes())
        with client(KILLED, address, out) as process:
            try:
                assert process.stdout.readline() == "ready\n"
                ours = set(our_processes()) - before
                assert len(ours) == 5, "agents, trainers and the relay"
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        wait_for(lambda: not ours & set(our_processes()), "the end of agents, trainers and relay")


def test_executors_without_this_package_get_it(tmp_path, out, nothing_left):
    for pickler in (cloudpickle, pyspark.cloudpickle):
        pickler.register_pickle_by_value(mains)  # which they lack as well
    try:
        python = str(bare_python(tmp_path / "venv"))
        with (
            connects.server("local-cluster[2,2,1024]", python=python, module_path="") as address,
            connects.session(address) as session,
            tfos_fast.run(session, mains.collect, {"out": out}, 2, memory="8m", relay=True) as cluster,
        ):
            assert cluster.feed(session.range(0, 1000, 1, 4)).rows == 1000
    finally:
        for pickler in (cloudpickle, pyspark.cloudpickle):
            pickler.unregister_pickle_by_value(mains)
    assert sum(map(len, noted(out).values())) == 1000


def test_gpus_that_spark_gives(tmp_path, out, nothing_left):
    discovery = test_gpus.script(tmp_path / "discover", """echo '{"name": "gpu", "addresses": ["4", "5", "6", "7"]}'""")
    worker = {"spark.worker.resource.gpu.amount": "4", "spark.worker.resource.gpu.discoveryScript": discovery}
    application = {
        "spark.cores.max": "4",
        "spark.executor.cores": "2",
        "spark.executor.resource.gpu.amount": "2",
        "spark.task.resource.gpu.amount": "1",
    }
    with (
        sparks.standalone(workers=1, cores=4, settings=worker) as master,
        connects.server(master, **application) as address,
        connects.session(address) as session,
    ):
        first, second = test_gpus.seen(session, out, 2)
    assert sorted(first[0].split(",") + second[0].split(",")) == ["4", "5", "6", "7"]
    assert len(first[0].split(",")) == 2
