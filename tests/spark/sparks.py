"""Real Sparks for the tests: local, local-cluster and a standalone cluster, all from the pip-installed pyspark."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyspark
from pyspark import SparkConf, SparkContext

PACKAGE = Path(pyspark.__file__).parent
ROOT = Path(__file__).parents[2]
QUICK_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


def make_spark_home(folder: Path) -> Path:
    """A SPARK_HOME of links to pyspark's own files: ``local-cluster`` writes its work folder there, whatever the settings say."""
    folder.mkdir()
    for entry in PACKAGE.iterdir():
        if entry.name != "work":
            (folder / entry.name).symlink_to(entry)
    return folder


def _conf(master: str, folder: Path, **settings: str) -> SparkConf:
    conf = SparkConf().setMaster(master).setAppName("tfos_fast tests")
    fixed = {
        # Short-lived JVMs: the optimising compiler costs more than it gives.
        "spark.driver.extraJavaOptions": QUICK_JVM,
        "spark.executor.extraJavaOptions": QUICK_JVM,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.executor.memory": "512m",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.local.dir": str(folder / "local"),
        "spark.executorEnv.PYTHONPATH": str(ROOT),
        "spark.executorEnv.TF_CPP_MIN_LOG_LEVEL": "2",
        "spark.executorEnv.TFOS_TEST_SETTING": "set",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
    }
    for name, value in (fixed | settings).items():
        conf.set(name, value)
    return conf


_kept: list[tuple[object, ExitStack, SparkContext]] = []


def shared(master: str, **settings: str) -> SparkContext:
    """The context that the last caller got, where that one asked for the same; else a new one. ``close_shared`` ends it."""
    key = (master, settings)
    if not _kept or _kept[0][0] != key:
        stack = ExitStack()
        context = stack.enter_context(spark(master, **settings))
        _kept.append((key, stack, context))
    return _kept[0][2]


def close_shared() -> None:
    """End the shared context, if there is one."""
    while _kept:
        _, stack, _ = _kept.pop()
        stack.close()


@contextmanager
def spark(master: str, **settings: str) -> Iterator[SparkContext]:
    """A Spark context that leaves nothing: its JVM ends, too, so that the next one starts from nothing."""
    close_shared()
    with tempfile.TemporaryDirectory(prefix="tfos-spark-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        home = make_spark_home(folder / "home")
        before = dict(os.environ)
        os.environ.update(SPARK_HOME=str(home), PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1")
        os.environ["PYTHONPATH"] = str(ROOT)
        sc = SparkContext(conf=_conf(master, folder, **settings))
        sc.setLogLevel("OFF")
        try:
            yield sc
        finally:
            stop(sc)
            os.environ.clear()
            os.environ.update(before)


def stop(sc: SparkContext) -> None:
    """Stop the context and its gateway's JVM."""
    from pyspark.sql import SparkSession

    gateway = sc._gateway
    session = SparkSession.getActiveSession()
    if session is not None:
        session.stop()
    sc.stop()
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(60)
    SparkContext._gateway = None
    SparkContext._jvm = None


@contextmanager
def standalone(
    workers: int,
    cores: int | Sequence[int],
    *,
    hosts: bool = False,
    module_path: str = str(ROOT),
    settings: dict[str, str] | None = None,
) -> Iterator[str]:
    """A standalone Master with Workers; yields the master's address.

    ``cores``: of each Worker, or of one after the other. ``hosts``: Spark takes each Worker for another host. ``module_path``:
    PYTHONPATH of the executors. ``settings``: of the Workers, such as ``spark.worker.resource.gpu.amount``.
    """
    with tempfile.TemporaryDirectory(prefix="tfos-spark-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        home = make_spark_home(folder / "home")
        env = dict(
            os.environ, SPARK_HOME=str(home), SPARK_LOCAL_IP="127.0.0.1", PYTHONPATH=module_path, PYSPARK_PYTHON=sys.executable
        )
        env["SPARK_DAEMON_JAVA_OPTS"] = QUICK_JVM
        launcher = [str(home / "bin" / "spark-class")]
        properties = folder / "workers.conf"
        properties.write_text("".join(f"{name} {value}\n" for name, value in (settings or {}).items()))
        processes = []

        def launch(what: str, *args: str, host: str = "127.0.0.1") -> Path:
            log = folder / f"{what}-{len(processes)}.log"
            with open(log, "wb") as out:
                command = [
                    *launcher,
                    f"org.apache.spark.deploy.{what}",
                    "--host",
                    host,
                    "--port",
                    "0",
                    "--webui-port",
                    "0",
                    *args,
                ]
                processes.append(subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT))
            return log

        try:
            address = _find(launch("master.Master"), r"Starting Spark master at (spark://\S+)")
            for i in range(workers):
                work = folder / f"work-{i}"
                host = f"127.0.0.{i + 1 if hosts else 1}"
                mine = cores if isinstance(cores, int) else cores[i]
                shape = ["--cores", str(mine), "--memory", "2g", "--work-dir", str(work), "--properties-file", str(properties)]
                log = launch("worker.Worker", *shape, address, host=host)
                _find(log, "Successfully registered with master")
            yield address
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(60)
            shutil.rmtree(folder, ignore_errors=True)


def _find(log: Path, pattern: str) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = re.search(pattern, log.read_text())
        if found:
            return found.group(found.lastindex or 0)
        time.sleep(0.1)
    raise AssertionError(f"{pattern!r} never came:\n{log.read_text()}")
