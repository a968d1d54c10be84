"""TensorBoard beside the trainer of one node, as the agent's child (``python -m tfos_fast.cluster.agent.tensorboard``)."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import IO

import msgspec

from tfos_fast.channel.host.processes import adopt_orphans, die_with
from tfos_fast.cluster.agent.scalars import follow
from tfos_fast.cluster.host.ports import HeldPort, parse_ports
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.errors import MissingDependency

log = logging.getLogger("tfos_fast.agent")

SETTING = "TENSORBOARD_PORT on the executors"
LAST_WRITES = 2.0  # seconds that it has in the end to write what it was told


class TensorBoard:
    """A running TensorBoard. To be made on the agent's main thread, whose end is its own, too.

    Parameters
    ----------
    handover : Handover
        Gives its folder of logs, relative to the trainer's folder, and its environment.
    address : str
        Of this host.

    Attributes
    ----------
    url : str
        Where it will be found. It takes some seconds to come up.
    pid : int
    pidfd : int
        Readable when it is dead. The owner closes it.

    Raises
    ------
    MissingDependency
    PortUnavailable
    """

    def __init__(self, handover: h.Handover, address: str) -> None:
        path = [part for part in handover.sys_path if part]
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingDependency(
                f"tensorboard=True, and the Python of {handover.name} ({sys.executable}) has none: pip install tensorboard there"
            )
        self._port = HeldPort(address, parse_ports(handover.environ.get("TENSORBOARD_PORT"), SETTING), SETTING)
        self._port.share()
        self.url = f"http://{address}:{self._port.port}"
        command = [sys.executable, "-m", "tfos_fast.cluster.agent.tensorboard", str(os.getpid())]
        # Its data server in a process of its own would outlive it.
        options = {"logdir": handover.tensorboard, "host": address, "port": self._port.port, "load_fast": "false"}
        command += [f"--{name}={value}" for name, value in options.items()]
        try:
            self._process = subprocess.Popen(
                command,
                env=dict(handover.environ, PYTHONPATH=os.pathsep.join(path)),
                cwd=handover.directory,
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
        except BaseException:
            self._port.close()
            raise
        assert self._process.stdin is not None
        self._stdin: IO[bytes] = self._process.stdin
        os.set_blocking(self._stdin.fileno(), False)
        self._unsent = b""
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def tell(self, nodes: Mapping[str, m.Counters]) -> None:
        """Have these counters written as scalars. Never waits: what it has not read yet stands for the newer ones, too."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            text = self._unsent or msgspec.json.encode(nodes) + b"\n"
            self._unsent = text[os.write(self._stdin.fileno(), text) :]

    def died(self) -> None:
        """Say so in the log: the training goes on without it."""
        log.warning("TensorBoard (process %d) ended with status %d", self.pid, self._process.wait())
        self._port.close()

    def close(self) -> None:
        """End it, after a moment for its last scalars."""
        self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LAST_WRITES)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._port.close()


def main() -> None:
    """Run TensorBoard in this process until the agent ends."""
    die_with(int(sys.argv[1]))
    adopt_orphans()  # its own, which the agent would take for the trainer's
    options = dict(option.removeprefix("--").split("=", 1) for option in sys.argv[2:])
    follow(sys.stdin.buffer, options["logdir"])
    from tensorboard.main import run_main

    sys.argv = ["tensorboard", *sys.argv[2:]]
    run_main()


if __name__ == "__main__":
    main()
