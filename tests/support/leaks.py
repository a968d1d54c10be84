"""What the tests of this run left behind: processes, segments, and files in the runtime folder."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from tfos_fast.channel.host.processes import runtime_base

# Everything that this run starts inherits these two, so that runs side by side do not take each other's processes for leaks.
MARK = f"TFOS_TEST_RUN={secrets.token_hex(8)}"
os.environ.update([MARK.split("=")])
os.environ["TFOS_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="tfos-test-")
atexit.register(shutil.rmtree, os.environ["TFOS_RUNTIME_DIR"], ignore_errors=True)


def of_this_run(pid: int | str) -> bool:
    """Whether this run started the process (or is it)."""
    try:
        return pid in (os.getpid(), str(os.getpid())) or MARK.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _of_this_run() -> list[str]:
    """The pids of what this run started, and its own."""
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and of_this_run(pid)]


def our_processes() -> dict[int, str]:
    """Brokers, agents and trainers on this host: pid -> command line."""
    found = {}
    for pid in _of_this_run():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        # A zombie has no command line.
        if any(part.startswith("tfos_fast.") for part in command):
            found[int(pid)] = " ".join(command).strip()
    return found


def our_segments() -> dict[str, str]:
    """Segments that some process has open, or that this process or one of Spark's workers has mapped."""
    found = {}
    for pid in _of_this_run():
        try:
            for entry in os.scandir(f"/proc/{pid}/fd"):
                try:
                    target = os.readlink(entry.path)
                except OSError:
                    continue
                if target.startswith("/memfd:tfos_fast"):
                    found[entry.path] = target
            me = pid == str(os.getpid())
            if not me and b"pyspark.daemon" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                continue
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                if "/memfd:tfos_fast" in line:
                    found[line.split()[4] if me else f"/proc/{pid}"] = "mapped here" if me else "mapped by a worker of Spark"
        except OSError:
            continue
    return found


def our_sockets() -> dict[str, str]:
    """What lies in this user's runtime folder."""
    return {str(path): "runtime directory" for path in runtime_base().iterdir()}
