"""The trainer: a fresh interpreter that runs the user's ``main(args, ctx)`` (``python -m tfos_fast.cluster.trainer``).

The agent of its node spawns it, reads its last word from a file and its end from the kernel.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tfos_fast.channel.processes import die_with
from tfos_fast.cluster import environment
from tfos_fast.cluster import handover as h
from tfos_fast.cluster import messages as m
from tfos_fast.cluster.context import Context


def load(directory: Path) -> tuple[Callable[[Any, Context], Any], Any]:
    """Unpickle ``main`` and its arguments. The file was written by a Spark task, from Spark's own closure."""
    from tfos_fast.cluster import closure

    return closure.loads((directory / h.MAIN).read_bytes())


def run_main(directory: Path, restarts: int) -> None:
    """Take over the Spark worker's surroundings and run ``main``."""
    handover = h.read_handover(directory)
    logging.basicConfig(
        level=handover.log_level, format=f"%(asctime)s %(levelname)s {handover.name} %(message)s", stream=sys.stderr
    )
    environment.apply(handover)
    context = Context(
        handover.job_name,
        handover.task_index,
        handover.executor_id,
        handover.cluster_spec,
        address=handover.address,
        restarts=restarts,
    )
    os.environ["TF_CONFIG"] = context.tf_config
    main, args = load(directory)
    sys.argv = [str(part) for part in args] if isinstance(args, list) else [handover.name]
    try:
        main(args, context)
    except SystemExit as error:
        if error.code not in (None, 0):
            context._abandon()
            raise
    except BaseException:
        context._abandon()
        raise
    context._close()


def _report(error: BaseException) -> h.Report:
    text = traceback.format_exc()
    print(text, file=sys.stderr, flush=True)
    summary = f"main raised {''.join(traceback.format_exception_only(error)).strip()}"
    return h.Report(m.clip(summary, m.MAX_TEXT), m.clip(text, m.MAX_TRACEBACK))


def main() -> None:
    """Run, write the report, tell the agent that it is written, end."""
    directory, parent, report_fd, restarts = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    die_with(parent)
    os.set_inheritable(report_fd, False)  # a child of main must not hold the agent's pipe open
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what was printed before a SIGKILL is in the log
    try:
        run_main(directory, restarts)
        report = h.Report()
    except BaseException as error:  # noqa: BLE001  # whatever it is, the driver gets to see it
        report = _report(error)
    unfinished = directory / (h.REPORT + ".new")
    unfinished.write_bytes(msgspec.msgpack.encode(report))
    unfinished.rename(directory / h.REPORT)
    sys.stdout.flush()
    os.close(report_fd)
    sys.exit(1 if report.summary else 0)


if __name__ == "__main__":
    main()
