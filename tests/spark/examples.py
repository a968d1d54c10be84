"""Programs of examples/ as their users start them: by ``tfos-fast submit`` to a standalone cluster."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.spark.sparks import QUICK_JVM, ROOT

EXAMPLES = ROOT / "examples" / "tfos"
CORES = 2  # of each of the two workers; a task takes all of them


def java_home() -> str:
    """Of the Java that Spark takes."""
    return os.environ.get("JAVA_HOME") or str(Path(shutil.which("java") or "").resolve().parents[1])


def submit(
    master: str, program: str, *args: object, py_files: str = "", conf: dict[str, str] | None = None, seconds: int = 110
) -> str:
    """What the program printed; an ``AssertionError`` with all of it when it fails."""
    settings = {
        "spark.cores.max": 2 * CORES,
        "spark.task.cpus": CORES,
        "spark.executorEnv.PYTHONPATH": ROOT,  # where tfos_fast is when it is not installed
        "spark.executorEnv.TF_CPP_MIN_LOG_LEVEL": 2,
        "spark.executor.memory": "512m",
        "spark.driver.extraJavaOptions": QUICK_JVM,
        "spark.executor.extraJavaOptions": QUICK_JVM,
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.executorEnv.JAVA_HOME": java_home(),
    } | (conf or {})
    command = [sys.executable, "-m", "tfos_fast.cli", "submit", "--master", master]
    command += [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    if py_files:
        command += ["--py-files", str(EXAMPLES / py_files)]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable, "TF_CPP_MIN_LOG_LEVEL": "2"}
    environ.pop("SPARK_HOME", None)
    program_and_args = [str(EXAMPLES / program), *map(str, args)]
    done = subprocess.run(
        command + program_and_args, env=environ, timeout=seconds, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, f"{program} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def predictions(folder: Path) -> tuple[int, int]:
    """Rows, and those of them whose prediction is their label."""
    lines = [line for part in sorted(folder.glob("part-*")) for line in part.read_text().splitlines()]
    found = [re.search(r"Label: (\d), Prediction: (\d)$", line) for line in lines]
    assert all(found), lines[:3]
    return len(found), sum(match[1] == match[2] for match in found if match)
