"""Which machine and which process this is, in words that other machines can compare."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tfos_fast.channel.host.processes import host_name, started
from tfos_fast.cluster.protocol.messages import Process

__all__ = ["address_towards", "host_name", "machine_id", "this_process"]


def machine_id() -> str:
    """The kernel's boot id with the process id namespace: where two processes have the same one, they can see each other."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.readlink('/proc/self/ns/pid')}"


def this_process(pid: int | None = None) -> Process:
    """Identity of a process of this machine, by default the calling one."""
    pid = os.getpid() if pid is None else pid
    return Process(pid, started(pid), machine_id())


def address_towards(host: str, port: int) -> str:
    """The address of this host on the network that leads to ``host``. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        address: str = probe.getsockname()[0]
        return address
