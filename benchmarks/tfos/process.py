"""Starts the process that measures TensorFlowOnSpark, waits for its figures and clears away what it leaves behind."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import secrets
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil

from benchmarks.spark import MARK

log = logging.getLogger("benchmarks")
ROOT = Path(__file__).parent.parent.parent
# Our case -> theirs.
CASES = {
    "floats32": "floats",
    "floats64": "floats",
    **{name: name for name in ("pictures", "tens", "infer", "first-batch", "next-batch-1", "lifecycle")},
}
START, LEAST_SPEED = 600, 0.05  # seconds; share of the expected speed below which we do not wait any longer


class TfosFailed(Exception):
    """TensorFlowOnSpark could not be measured."""


def measure(python: str, names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Run it, with nothing else running.

    Parameters
    ----------
    python : str
        The interpreter of its environment.
    names : list of str
        Cases of ours; those that it has no part in are left out.
    options : Namespace
        Of ``python -m benchmarks feed``.

    Returns
    -------
    dict
        ``versions``; ``samples``, which is what ``Bench.tfos`` takes; ``left``, the number of processes that it left behind.

    Raises
    ------
    TfosFailed
    """
    wanted = list(dict.fromkeys(CASES[name] for name in names if name in CASES))
    if not wanted:
        return {"versions": {}, "samples": {}, "left": 0}
    told = {key: getattr(options, key) for key in ("executors", "repeats", "seconds", "quick", "executor_mib", "conf")}
    environment = {key: value for key, value in os.environ.items() if key not in ("SPARK_HOME", "PYTHONHOME", "VIRTUAL_ENV")}
    mark = secrets.token_hex(8)
    # An absolute path, whose links are left alone: the one in an environment's bin/ is what makes it that environment.
    program = os.path.abspath(python)
    environment |= {MARK: mark, "PYTHONPATH": str(ROOT)}
    command = [program, "-m", "benchmarks.tfos.cases", json.dumps({"cases": wanted, **told})]
    limit = START + len(wanted) * (options.repeats + 1) * (options.seconds + 15) / LEAST_SPEED
    try:
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            try:
                output, _ = process.communicate(timeout=limit)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
    except OSError as error:
        raise TfosFailed(f"{python} cannot be started ({error}); `scripts/tfos-env.sh` makes it") from error
    except subprocess.TimeoutExpired as error:
        raise TfosFailed(f"TensorFlowOnSpark had not ended after {limit:.0f} s") from error
    finally:
        left = _clear(mark)
    lines = output.splitlines()
    if process.returncode or not lines:
        raise TfosFailed(
            f"the process that measures TensorFlowOnSpark ended with {process.returncode}; its standard error says why"
        )
    return {**json.loads(lines[-1]), "left": left}


def _clear(mark: str) -> int:
    """Kill what is left of the run: its nodes' queue managers outlive the executors."""
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                process.kill()
                left.append(process)
    psutil.wait_procs(left, timeout=10)
    return len(left)
