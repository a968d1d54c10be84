"""The Spark that everything is measured on: by default two executors of one core. Knows nothing of tfos_fast."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MARK = "TFOS_BENCH_RUN"  # in the environment of all processes of a run


def _home_of_links(folder: Path) -> Path:
    """A SPARK_HOME of links to pyspark's own files: ``local-cluster`` writes its work folder there, whatever the settings say."""
    import pyspark

    folder.mkdir()
    for entry in Path(pyspark.__file__).parent.iterdir():
        if entry.name != "work":
            (folder / entry.name).symlink_to(entry)
    return folder


def _package(folder: Path) -> Path:
    """This package as a zip file, which Spark hands to the executors."""
    path = folder / "benchmarks.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for source in sorted(HERE.rglob("*.py")):
            archive.write(source, Path("benchmarks", source.relative_to(HERE)))
    return path


@contextmanager
def context(master: str | None, executors: int, mib: int, settings: Iterable[str] = (), name: str = "benchmark") -> Iterator[Any]:
    """A Spark context whose executors have one core each; stopped in the end.

    Parameters
    ----------
    master : str, optional
        Of a running cluster; by default a ``local-cluster`` is made.
    executors : int
    mib : int
        Memory of an executor's JVM.
    settings : iterable of str
        Further ``name=value``.

    Yields
    ------
    SparkContext
    """
    from pyspark import SparkConf, SparkContext

    with tempfile.TemporaryDirectory(prefix="tfos-bench-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        conf = SparkConf().setAppName(f"tfos_fast {name}").setMaster(master or f"local-cluster[{executors},1,{mib}]")
        fixed = {
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.executor.memory": f"{mib}m",
            "spark.executor.instances": str(executors),
            "spark.executor.cores": "1",
            "spark.cores.max": str(executors),
            "spark.executorEnv.TF_CPP_MIN_LOG_LEVEL": "2",
            f"spark.executorEnv.{MARK}": os.environ.setdefault(MARK, secrets.token_hex(8)),
        }
        if master is None:
            os.environ["SPARK_HOME"] = str(_home_of_links(folder / "home"))
            fixed |= {
                "spark.driver.host": "127.0.0.1",
                "spark.driver.bindAddress": "127.0.0.1",
                "spark.local.dir": str(folder / "local"),
                "spark.worker.dir": str(folder / "work"),
                "spark.sql.warehouse.dir": str(folder / "warehouse"),
            }
        for key, value in fixed.items():
            conf.set(key, value)
        for setting in settings:
            conf.set(*setting.split("=", 1))
        sc = SparkContext(conf=conf)
        try:
            sc.setLogLevel("ERROR")
            sc.addPyFile(str(_package(folder)))
            yield sc
        finally:
            sc.stop()


def driver_host(sc: Any) -> str:
    """The driver's address as its executors see it."""
    return sc.getConf().get("spark.driver.host")
