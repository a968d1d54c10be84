"""Run TensorFlowOnSpark's own tests, from a checkout of it, against the package of that name that tfos-fast brings.

    python scripts/tfos_suite.py CHECKOUT [name ...]

Prints each test with its outcome. Each file runs in a process of its own, on a standalone cluster of two executors. The exit status
is 1 when a test failed that is to pass; tests of modules that tfos-fast does not have yet may fail.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LATER = ("test_dfutil", "test_pipeline")  # their modules do not exist yet
NODES = 2
SECONDS = 600  # for each file


class Outcomes(unittest.TextTestResult):
    """Prints a line for each test as it ends."""

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        print(f"OUTCOME pass {test.id()}", flush=True)

    def addError(self, test: unittest.TestCase, err: object) -> None:
        super().addError(test, err)  # type: ignore[arg-type]
        print(f"OUTCOME fail {test.id()}: {self._said(err)}", flush=True)

    def addFailure(self, test: unittest.TestCase, err: object) -> None:
        super().addFailure(test, err)  # type: ignore[arg-type]
        print(f"OUTCOME fail {test.id()}: {self._said(err)}", flush=True)

    @staticmethod
    def _said(err: object) -> str:
        lines = str(err[1]).strip().splitlines()  # type: ignore[index]
        return f"{err[0].__name__}: {lines[0] if lines else ''}"[:300]  # type: ignore[index]


def run_file(name: str, folder: str) -> int:
    """In a process of its own: the tests of one file."""
    sys.path.insert(0, folder)
    suite = unittest.defaultTestLoader.loadTestsFromName(name)
    return not unittest.TextTestRunner(resultclass=Outcomes, verbosity=0).run(suite).wasSuccessful()


def outcomes(name: str, tests: Path, environ: dict[str, str], folder: str) -> list[tuple[bool, str]]:
    """What became of the tests of one file: (passed, name and message)."""
    command = [sys.executable, str(Path(__file__).resolve()), "--file", name, str(tests)]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environ, timeout=SECONDS, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said, status = done.stdout, done.returncode
    except subprocess.TimeoutExpired as late:
        said, status = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or "", -1
    found = [line.removeprefix("OUTCOME ") for line in said.splitlines() if line.startswith("OUTCOME ")]
    result = [(line.startswith("pass "), line[5:]) for line in found]
    if status and all(passed for passed, _ in result):
        why = f"no end within {SECONDS} s" if status == -1 else f"its process ended with {status}"
        result.append((False, f"{name}: {why}; its last lines:\n    " + "\n    ".join(said.splitlines()[-15:])))
    return result


def main(words: list[str]) -> int:
    """Run the suite; returns the exit status."""
    if words[:1] == ["--file"]:
        return run_file(words[1], words[2])
    tests = Path(words[0] if words else "").resolve() / "tests"
    names = sorted(path.stem for path in tests.glob("test_*.py"))
    if not words or not names:
        print("name a checkout of TensorFlowOnSpark: make tfos-suite TFOS_REPO=<folder>", file=sys.stderr)
        return 2
    names = [name for name in names if name in words[1:] or not words[1:]]
    sys.path.insert(0, str(ROOT))
    from tests.spark import sparks
    from tfos_fast.compat import DROPIN

    bad = good = later = 0
    with sparks.standalone(workers=NODES, cores=1) as master, tempfile.TemporaryDirectory(prefix="tfos-suite-") as folder:
        path = os.pathsep.join((str(DROPIN), str(ROOT)))
        settings = {"spark.executorEnv.PYTHONPATH": path, "spark.executor.memory": "512m", "spark.ui.enabled": "false"}
        submit = [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
        environ = dict(os.environ) | {
            "MASTER": master,
            "SPARK_WORKER_INSTANCES": str(NODES),
            "SPARK_CLASSPATH": ",".join(map(str, sorted((tests.parent / "lib").glob("*.jar")))) or str(tests / "none.jar"),
            "PYSPARK_SUBMIT_ARGS": " ".join([*submit, "pyspark-shell"]),
            "PYSPARK_PYTHON": sys.executable,
            "PYTHONPATH": path,
            "SPARK_LOCAL_IP": "127.0.0.1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        for name in names:
            for passed, text in outcomes(name, tests, environ, folder):
                print("passed " if passed else "FAILED ", text, flush=True)
                good += passed
                later += not passed and name in LATER
                bad += not passed and name not in LATER
    print(f"{good} tests passed, {bad} failed; {later} failed of modules that tfos-fast does not have yet")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
