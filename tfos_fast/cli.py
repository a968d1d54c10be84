"""The command ``tfos-fast``: runs scripts written for TensorFlowOnSpark."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfos_fast.compat import DROPIN, submitted

_SETTINGS = ("spark.executorEnv.PYTHONPATH", "spark.yarn.appMasterEnv.PYTHONPATH")


def with_dropin(arguments: Sequence[str], folder: str) -> list[str]:
    """spark-submit's arguments with the folder first on the executors' PYTHONPATH; a path of the user's stays behind it."""
    found: dict[str, int] = {}
    result = list(arguments)
    for i, word in enumerate(result):
        name = word.removeprefix("--conf=").partition("=")[0]
        if name in _SETTINGS and (word.startswith("--conf=") or (i and result[i - 1] in ("--conf", "-c"))):
            begin, _, path = word.rpartition("=")
            result[i] = f"{begin}={folder}{os.pathsep}{path}"
            found[name] = i
    more = [part for name in _SETTINGS if name not in found for part in ("--conf", f"{name}={folder}")]
    return more + result


def with_environment(environ: Mapping[str, str], folder: str) -> dict[str, str]:
    """The driver's environment: the folder first on PYTHONPATH, and this Python for Spark unless another one is chosen."""
    path = os.pathsep.join(part for part in (folder, environ.get("PYTHONPATH", "")) if part)
    return {"PYSPARK_PYTHON": sys.executable, **environ, "PYTHONPATH": path}


def _spark_submit() -> str | None:
    home = os.environ.get("SPARK_HOME")
    if home:
        return str(Path(home) / "bin" / "spark-submit")
    return shutil.which("spark-submit", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["submit"] and len(words) > 1:
        program = _spark_submit()
        if program is None:
            print(
                "tfos-fast: no spark-submit found: set SPARK_HOME, put it on PATH, or pip install 'tfos-fast[spark]'",
                file=sys.stderr,
            )
            return 1
        options, script = submitted.split(words[1:])
        hidden = submitted.beside(script)
        if hidden is not None:
            print(
                f"tfos-fast: {hidden} lies beside the program, so Python would take it in place of tfos-fast's package; move the "
                "program to another folder, or call spark-submit to use that package",
                file=sys.stderr,
            )
            return 1
        options = submitted.without_original(options, lambda text: print(f"tfos-fast: {text}", file=sys.stderr, flush=True))
        command = [program, *with_dropin(options, str(DROPIN)), *script]
        os.execve(program, command, with_environment(os.environ, str(DROPIN)))
    parser = argparse.ArgumentParser(prog="tfos-fast", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("dropin-path", help="print the folder that holds the package tensorflowonspark, for PYTHONPATH")
    commands.add_parser("submit", help="spark-submit with that folder: tfos-fast submit [spark-submit options] script.py [args]")
    if parser.parse_args(words).command == "submit":
        parser.error("submit needs a script: tfos-fast submit [spark-submit options] script.py [args]")
    print(DROPIN)
    return 0


if __name__ == "__main__":
    sys.exit(main())
