"""The trainer as its agent sees it: spawned, watched by the kernel, its end put into words, killed with all that it spawned."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from tfos_fast.channel.host.descriptors import as_before
from tfos_fast.channel.host.processes import how_ended, is_stopped
from tfos_fast.cluster.agent.log_tail import LogTail
from tfos_fast.cluster.host.descendants import below, kill_all, terminate
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.last_word import Ear

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
    spare : callable
        Gives the other children of this process, which are not the trainer's.

    Attributes
    ----------
    pid : int
    pidfd : int
        Readable when the process is dead. The owner closes it.
    report_fd : int
        Readable when the report is written. The owner closes it.
    note : str
        How it ended badly though all that it did counts, in one sentence; empty until it is dead.
    """

    def __init__(self, name: str, host: str, directory: Path, life: int = 0, spare: Callable[[], set[int]] = set) -> None:
        self.name = name
        self.host = host
        self.life = life
        self._spare = spare
        self._killed = False  # by us
        handover = h.read_handover(directory)
        # For the interpreter to find this package; the trainer then sets sys.path and PYTHONPATH as the Spark worker had them.
        env = dict(handover.environ, PYTHONPATH=os.pathsep.join(path for path in handover.sys_path if path))
        self.note = ""
        self._fed = handover.fed
        self._ear = Ear()
        self.report_fd = self._ear.bell
        words = (directory, os.getpid(), *self._ear.inherited, life)
        command = [sys.executable, "-m", "tfos_fast.cluster.trainer.main", *map(str, words)]
        try:
            log, log_in = os.pipe()
            try:
                self._process = subprocess.Popen(
                    command, env=env, cwd=directory, stdin=subprocess.DEVNULL, stdout=log_in, stderr=log_in,
                    pass_fds=self._ear.inherited, start_new_session=True,
                )  # fmt: skip
            finally:
                os.close(log_in)
                self._log = LogTail(log)
            self.pid = self._process.pid
            as_before(self.pid)
            self.pidfd = self._watched()
        except BaseException:
            self._ear.close()
            os.close(self.report_fd)
            raise

    def _watched(self) -> int:
        """Its pidfd. It is our child: not reaped, so the id is its own."""
        try:
            return os.pidfd_open(self.pid)
        except OSError:  # nobody would see its end
            _signal_group(self.pid, signal.SIGKILL)
            self._process.wait()
            raise

    def report(self) -> h.Report | None:
        """Return what it has said last; None when ``main`` has not come to its end, or its readers have yet to leave."""
        report = self._ear.read()
        return None if report is None or report.leaving else report

    def failure(self, *, dead: bool, fed: bool) -> m.Failure | None:
        """Return what is wrong with it, by its report and, when it is ``dead``, by its exit status: None when ``main`` returned.

        How a process ends after ``main`` has returned is no failure: CUDA, gRPC and NCCL crash there.

        Parameters
        ----------
        dead : bool
        fed : bool
            Its feed is over, and it has taken all rows. A program that then ends with status 0, by ``os._exit``, has done its work.
        """
        who = f"{self.name} on {self.host}"
        report = self._ear.read()
        if report is not None and report.summary:
            self._log.catch_up(LAST_LINES)
            tail = self._log.tail(before=report.remote_traceback)
            return m.Failure("NodeFailed", f"{who}: {report.summary}", self.name, self.host, report.remote_traceback, 0, tail)
        if not dead:
            return None
        code = self._process.wait()
        trainer = f"its trainer (process {self.pid})"
        over = fed or not self._fed
        if report is not None and (over or not report.leaving):
            if code and not self._killed:
                self.note = f"{who}: {trainer} {how_ended(code)} after main had returned; what main has done counts"
            return None
        if code == 0 and over:
            self.note = f"{who}: {trainer} ended with status 0 before main had returned, as by os._exit; what it has done counts"
            return None
        text = f"{who}: {trainer} {how_ended(code)}"
        if report is not None:
            text += " after main had returned, when it left a feed that had not ended"
        elif code >= 0:
            text += " without a word from main"
        if report is None and code == 0:
            text += ", as by os._exit, before its feed had ended: let main return"
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

    def close(self) -> None:
        """Let go of what is left of a dead one."""
        self._ear.close()

    def kill(self) -> None:
        """End it and all that descends from it, whatever session that is in; waits until it is dead."""
        self._killed = self._killed or self._process.poll() is None
        if self._process.poll() is None and not is_stopped(self.pid):  # a stopped process hears nothing but SIGKILL
            outside = [process for process in self._descendants() if _group_of(process.pid) != self.pid]
            _signal_group(self.pid, signal.SIGTERM)
            terminate(outside)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(TERM_GRACE)
        _signal_group(self.pid, signal.SIGKILL)
        self._process.wait()
        kill_all(self._descendants)
        self._log.wait(LAST_LINES)

    def _descendants(self) -> list[psutil.Process]:
        """What descends from it, without itself. Orphans are this process's children."""
        return [process for process in below(self._spare()) if process.pid != self.pid]


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
