"""The trainer: a fresh interpreter that runs the user's ``main(args, ctx)`` (``python -m tfos_fast.cluster.trainer.main``).

The agent of its node spawns it, reads its last word from memory that both hold, and its end from the kernel.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zmq import ZMQError

from tfos_fast.channel.host.processes import die_with
from tfos_fast.cluster.launch import environment
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.last_word import Mouth
from tfos_fast.cluster.trainer.context import Context

_LOADING = "main cannot be loaded:"


def load(directory: Path, *, keep: bool) -> tuple[Callable[[Any, Context], Any], Any]:
    """Unpickle ``main`` and its arguments. The file was written by a Spark task, from Spark's own closure.

    It may be large, and is removed unless another trainer may need it.
    """
    from tfos_fast.cluster.spark import closure

    path = directory / h.MAIN
    data = path.read_bytes()
    if not keep:
        path.unlink()
    program: tuple[Callable[[Any, Context], Any], Any] = closure.loads(data)
    return program


def run_main(directory: Path, restarts: int, mouth: Mouth) -> h.Report:
    """Take over the Spark worker's surroundings, run ``main``, and report how it ended."""
    doing = "main cannot be started here:"
    context = None
    try:
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
        doing = _LOADING
        main, args = load(directory, keep=handover.restarts)
        doing = "main raised"
        sys.argv = [str(part) for part in args] if isinstance(args, list) else [handover.name]
        try:
            main(args, context)
        except SystemExit as error:
            if error.code not in (None, 0):
                raise
        mouth.write(h.Report(leaving=True))
        _leave(context)
        report = h.Report(waits=_waits())
    except BaseException as error:  # noqa: BLE001  # whatever it is, the driver gets to see it
        report = _report(error, doing)
        mouth.write(report)  # first of all: what comes behind may fail, hang or crash
        if context is not None:
            context._abandon()
        return report
    mouth.write(report)
    return report


def _report(error: BaseException, doing: str = "main raised") -> h.Report:
    try:
        text = "".join(traceback.format_exception(error))
        what = "".join(traceback.format_exception_only(error)).strip()
    except Exception as another:  # noqa: BLE001  # an exception that cannot be printed is one all the same
        text = what = f"{type(error).__name__}, whose traceback cannot be printed: {type(another).__name__}"
    if doing == _LOADING and isinstance(error, ImportError | AttributeError):
        what += ". Its modules must be there on the executors, as they are in the driver: install them, or send them by --py-files"
    return h.Report(m.clip(f"{doing} {what}", m.MAX_TEXT), m.clip(text, m.MAX_TRACEBACK))


def _leave(context: Context) -> None:
    """Leave the feeds. What ``main`` has done to its process is no failure; results that are owed, or cannot be sent, are one."""
    try:
        context._close()
    except (OSError, ZMQError, MemoryError, KeyboardInterrupt, SystemExit):  # descriptors closed, limits set, a signal's handler
        logging.getLogger("tfos_fast.trainer").warning("main has returned, and its feed cannot be left in order", exc_info=True)


def _waits() -> str:
    """For what this process waits before it ends."""
    try:
        return m.clip(_unfinished(), m.MAX_NAMES)
    except Exception:  # noqa: BLE001  # the program has put something else into a module
        return ""


def _unfinished() -> str:
    others = [thread.name for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    parts = {"threads that are no daemons": others}
    if "multiprocessing.process" in sys.modules:
        from multiprocessing import active_children

        parts["processes of multiprocessing"] = [child.name for child in active_children() if not child.daemon]
    return " and ".join(f"{what} ({', '.join(names)})" for what, names in parts.items() if names)


def _print(text: str) -> None:
    """Print to the log, as far as the program has left one: the report is written, and counts without it."""
    if text:
        with contextlib.suppress(Exception):
            print(text, file=sys.stderr, flush=True)
    with contextlib.suppress(Exception):
        sys.stdout.flush()


def _default_signals() -> None:
    """Undo what this process has inherited from agent and Spark worker: signals that they ignore or block."""
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # these two every Python ignores
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main() -> None:
    """Run, write the report, print, tell the agent that the report is written, end."""
    directory, (parent, memory, rope, restarts) = Path(sys.argv[1]), map(int, sys.argv[2:6])
    die_with(parent)
    _default_signals()
    mouth = Mouth(memory, rope)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what was printed before a SIGKILL is in the log
    report = run_main(directory, restarts, mouth)
    _print(report.remote_traceback)
    mouth.ring()
    sys.exit(1 if report.summary else 0)


if __name__ == "__main__":
    main()
