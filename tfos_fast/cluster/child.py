"""The trainer as its agent sees it: spawned, watched by the kernel, its end put into words, killed with all that it spawned."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from tfos_fast.channel.processes import how_ended, is_stopped
from tfos_fast.cluster import handover as h
from tfos_fast.cluster import messages as m
from tfos_fast.cluster.logtail import LogTail

TERM_GRACE = 2.0  # seconds between SIGTERM and SIGKILL
LAST_LINES = 0.1  # seconds that the last lines of a trainer may take; a process that it left may print on


class Child:
    """A spawned trainer. To be made on the agent's main thread, whose end is the trainer's, too.

    Parameters
    ----------
    name, host : str
        Of the node, for messages.
    directory : Path
        Holds the handover and ``main.pkl``.
    life : int
        How many trainers were there before it.

    Attributes
    ----------
    pid : int
    pidfd : int
        Readable when the process is dead. The owner closes it.
    report_fd : int
        Readable when the report is written or the process is dead. The owner closes it.
    """

    def __init__(self, name: str, host: str, directory: Path, life: int = 0) -> None:
        self.name = name
        self.host = host
        self.life = life
        self._directory = directory
        (directory / h.REPORT).unlink(missing_ok=True)  # of the one before
        handover = h.read_handover(directory)
        # For the interpreter to find this package; the trainer then sets sys.path and PYTHONPATH as the Spark worker had them.
        env = dict(handover.environ, PYTHONPATH=os.pathsep.join(path for path in handover.sys_path if path))
        self.report_fd, report_in = os.pipe()
        log, log_in = os.pipe()
        command = [sys.executable, "-m", "tfos_fast.cluster.trainer", str(directory), str(os.getpid()), str(report_in), str(life)]
        try:
            self._process = subprocess.Popen(
                command, env=env, cwd=directory, stdin=subprocess.DEVNULL, stdout=log_in, stderr=log_in,
                pass_fds=(report_in,), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(report_in)
            os.close(log_in)
            self._log = LogTail(log)
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)  # it is our child: not reaped, so the id is its own

    def failure(self, *, dead: bool) -> m.Failure | None:
        """What is wrong with it, by its report and, when it is ``dead``, by its exit status: None when ``main`` returned."""
        who = f"{self.name} on {self.host}"
        report = self._report()
        if report is not None and report.summary:
            self._log.catch_up(LAST_LINES)
            tail = self._log.tail(before=report.remote_traceback)
            return m.Failure("NodeFailed", f"{who}: {report.summary}", self.name, self.host, report.remote_traceback, 0, tail)
        if not dead:
            return None
        code = self._process.wait()
        if report is not None and code == 0:
            return None
        trainer = f"its trainer (process {self.pid})"
        if code < 0:
            text = f"{who}: {trainer} {how_ended(code)}"
        else:
            when = "after main had returned" if report is not None else "without a word from main"
            text = f"{who}: {trainer} {how_ended(code)} {when}"
        self._log.wait(LAST_LINES)
        return m.Failure("NodeKilled", text, self.name, self.host, "", max(0, -code), self._log.tail())

    @property
    def tail(self) -> str:
        """The last lines that it printed."""
        return self._log.tail()

    @property
    def status(self) -> int | None:
        """Its exit status, negative when a signal ended it; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """End it and what it has spawned in its session; waits until it is dead."""
        if self._process.poll() is None and not is_stopped(self.pid):  # a stopped process hears nothing but SIGKILL
            _signal_group(self.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(TERM_GRACE)
        _signal_group(self.pid, signal.SIGKILL)
        self._process.wait()
        self._log.wait(LAST_LINES)

    def _report(self) -> h.Report | None:
        try:
            return msgspec.msgpack.decode((self._directory / h.REPORT).read_bytes(), type=h.Report)
        except FileNotFoundError:
            return None


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
