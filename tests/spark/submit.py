"""Programs of ``examples`` through spark-submit, as a user runs them, on a standalone cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.spark.sparks import PACKAGE, QUICK_JVM, ROOT

EXAMPLES = ROOT / "examples"
SETTINGS = {
    "spark.driver.extraJavaOptions": QUICK_JVM,
    "spark.executor.extraJavaOptions": QUICK_JVM,
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
    "spark.executor.memory": "512m",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.executorEnv.PYTHONPATH": str(ROOT),
    "spark.executorEnv.TF_CPP_MIN_LOG_LEVEL": "2",
}


def submit(master: str, scratch: Path, program: str, *args: object, py_files: str = "", **settings: str) -> str:
    """Run a program of ``examples``; what it printed on stdout."""
    command = [str(PACKAGE / "bin" / "spark-submit"), "--master", master]
    for name, value in (SETTINGS | {"spark.local.dir": str(scratch / "local")} | settings).items():
        command += ["--conf", f"{name}={value}"]
    if py_files:
        command += ["--py-files", str(EXAMPLES / py_files)]
    environ = dict(
        os.environ, PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1", SPARK_HOME=str(PACKAGE), PYTHONPATH=str(ROOT)
    )
    done = subprocess.run(
        [*command, str(EXAMPLES / program), *map(str, args)], env=environ, cwd=scratch, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-8000:]}"
    return done.stdout
