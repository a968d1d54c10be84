"""A real Spark Connect server for the tests: a process and JVM of its own, which is no parent of the client's."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.spark.sparks import QUICK_JVM, ROOT, make_spark_home
from tfos_fast.channel.host.processes import die_with


@contextmanager
def server(master: str, *, python: str = sys.executable, module_path: str = str(ROOT), **settings: str) -> Iterator[str]:
    """Yields the address for clients, ``sc://127.0.0.1:<port>``; the server is gone afterwards, its executors with it.

    ``python``, ``module_path``: of the executors.
    """
    with tempfile.TemporaryDirectory(prefix="tfos-connect-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        home = make_spark_home(folder / "home")
        env = dict(os.environ, SPARK_HOME=str(home), PYSPARK_PYTHON=python, SPARK_LOCAL_IP="127.0.0.1")
        env["PYTHONPATH"] = module_path
        fixed = {
            "spark.driver.extraJavaOptions": QUICK_JVM,
            "spark.executor.extraJavaOptions": QUICK_JVM,
            "spark.ui.enabled": "false",
            "spark.executor.memory": "512m",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.local.dir": str(folder / "local"),
            "spark.executorEnv.PYTHONPATH": module_path,
            "spark.executorEnv.TF_CPP_MIN_LOG_LEVEL": "2",
            "spark.sql.shuffle.partitions": "2",
            "spark.sql.warehouse.dir": str(folder / "warehouse"),
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": "0",
        }
        conf = [part for pair in (fixed | settings).items() for part in ("--conf", "=".join(pair))]
        command = [
            str(home / "bin" / "spark-submit"), "--master", master,
            "--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "--name", "tests", *conf, "spark-internal",
        ]  # fmt: skip
        log = folder / "server.log"
        with open(log, "wb") as out:
            end_with_us = functools.partial(die_with, os.getpid())  # a test run that is killed leaves no JVM
            process = subprocess.Popen(command, env=env, cwd=folder, stdout=out, stderr=subprocess.STDOUT, preexec_fn=end_with_us)
        try:
            yield f"sc://127.0.0.1:{_port(log, process)}"
        finally:
            process.terminate()
            process.wait(60)


def _port(log: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"Spark Connect server started at: \S*?:(\d+)", log.read_text()):
            return int(found.group(1))
        time.sleep(0.1)
    raise AssertionError(f"no Spark Connect server came:\n{log.read_text()}")


@contextmanager
def session(address: str) -> Iterator[Any]:
    """A client's session, made without the environment that would turn all of this process to Spark Connect."""
    from pyspark.sql.connect.session import SparkSession

    before = dict(os.environ)
    made = SparkSession.builder.remote(address).getOrCreate()
    try:
        yield made
    finally:
        made.stop()
        os.environ.clear()
        os.environ.update(before)
