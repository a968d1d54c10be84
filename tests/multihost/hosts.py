"""Hosts on one machine: each has a network, mount, process and host name namespace of its own; a bridge joins them. For root."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.spark.sparks import QUICK_JVM, ROOT, _find, make_spark_home

NET = "10.199.7"  # the driver is .1, hosts .2 and on


def missing() -> str:
    """Why there can be no such hosts here; empty when there can."""
    if os.geteuid():
        return "network namespaces need root"
    for program in ("ip", "unshare", "mount", "hostname"):
        if shutil.which(program) is None:
            return f"the program {program} is not installed (iproute2, util-linux, hostname)"
    name = f"tfos{secrets.token_hex(2)}"
    for command in (f"ip netns add {name}", f"ip link add {name} type bridge", "unshare --uts --mount --pid --fork true"):
        made = subprocess.run(command.split(), capture_output=True, text=True)
        if made.returncode:
            return f"{command.rpartition(' ')[0]}: {made.stderr.strip()}"
    _run(f"ip netns del {name}")
    _run(f"ip link del {name}")
    return ""


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True, text=True)


class Host:
    """One of them.

    Attributes
    ----------
    name, ip : str
    log : Path
        Of what runs there.
    """

    def __init__(self, mark: str, number: int, folder: Path) -> None:
        self.name, self.ip = f"{mark}h{number}", f"{NET}.{number + 2}"
        self._link, self._folder, self.log = f"{mark}v{number}", folder, folder / f"{self.name}.log"
        self._processes: list[subprocess.Popen[bytes]] = []
        _run(f"ip netns add {self.name}")
        _run(f"ip link add {self._link} type veth peer name eth0 netns {self.name}")
        _run(f"ip link set {self._link} master {mark}br up")
        for command in (f"addr add {self.ip}/24 dev eth0", "link set eth0 up", "link set lo up"):
            _run(f"ip -n {self.name} {command}")

    def start(self, command: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        """Run a command there; its end is that of everything it has started."""
        private = self._folder / f"run-{self.name}"
        private.mkdir(exist_ok=True)
        inside = [
            "mount --make-rprivate /",
            f"mount --bind {self._folder}/hosts /etc/hosts",
            f"mount -t tmpfs -o mode=700 tmpfs {private}",
            f"hostname {self.name}",
            '"$@"',
        ]
        env = env | {"TFOS_RUNTIME_DIR": str(private)}
        spaces = ["unshare", "--uts", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        with open(self.log, "wb") as out:
            command = ["ip", "netns", "exec", self.name, *spaces, "sh", "-c", " && ".join(inside) + "; exit $?", "sh", *command]
            process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
        self._processes.append(process)
        return process

    def cut(self) -> None:
        """Pull its network cable."""
        _run(f"ip link set {self._link} down")

    def mend(self) -> None:
        """Plug it in again."""
        _run(f"ip link set {self._link} up")

    def remove(self) -> None:
        """End everything there, and the host."""
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
        for process in self._processes:
            process.wait(30)
        _run(f"ip netns del {self.name}")
        subprocess.run(["ip", "link", "del", self._link], capture_output=True)  # gone with its other end, in a moment


@contextmanager
def hosts(count: int, folder: Path) -> Iterator[list[Host]]:
    """Some hosts, and this process as the driver's host."""
    mark = f"t{secrets.token_hex(2)}"
    made: list[Host] = []
    lines = ["127.0.0.1 localhost", *(f"{NET}.{i + 2} {mark}h{i}" for i in range(count)), f"{NET}.1 {os.uname().nodename}"]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    _run(f"ip link add {mark}br type bridge")
    try:
        _run(f"ip addr add {NET}.1/24 dev {mark}br")
        _run(f"ip link set {mark}br up")
        for number in range(count):
            made.append(Host(mark, number, folder))
        yield made
    finally:
        for host in made:
            host.remove()
        _run(f"ip link del {mark}br")


@contextmanager
def standalone(count: int, cores: int, folder: Path) -> Iterator[tuple[str, list[Host]]]:
    """A standalone Spark: the Master here, a Worker on each host. Yields the master's address and the hosts."""
    home = make_spark_home(folder / "home")
    env = dict(os.environ, SPARK_HOME=str(home), PYTHONPATH=str(ROOT), PYSPARK_PYTHON=sys.executable)
    env["SPARK_DAEMON_JAVA_OPTS"] = QUICK_JVM
    launcher = str(home / "bin" / "spark-class")
    with hosts(count, folder) as made:
        log = folder / "master.log"
        with open(log, "wb") as out:
            command = [launcher, "org.apache.spark.deploy.master.Master", "--host", f"{NET}.1", "--port", "0", "--webui-port", "0"]
            master = subprocess.Popen(command, env=env | {"SPARK_LOCAL_IP": f"{NET}.1"}, stdout=out, stderr=subprocess.STDOUT)
        try:
            address = _find(log, r"Starting Spark master at (spark://\S+)")
            for host in made:
                command = [launcher, "org.apache.spark.deploy.worker.Worker", "--host", host.ip, "--webui-port", "0"]
                command += ["--cores", str(cores), "--memory", "1g", "--work-dir", str(folder / f"work-{host.name}"), address]
                host.start(command, env | {"SPARK_LOCAL_IP": host.ip, "SPARK_LOCAL_HOSTNAME": host.ip})
            for host in made:
                _find(host.log, "Successfully registered with master")
            yield address, made
        finally:
            master.terminate()
            master.wait(60)


def seconds(begin: float) -> str:
    """Since then, for messages."""
    return f"{time.monotonic() - begin:.1f} s"
