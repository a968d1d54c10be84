"""What tfos_fast needs of the operating system, and which part of that this process does not get.

Only the standard library is needed, and nothing of this package: Spark tasks run these functions before it is known whether their
Python has this package (`tfos_fast.cluster.spark.probe`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import select
import subprocess
import sys
from collections.abc import Mapping

LEAST = "Linux 5.3"  # the first with pidfd_open and a pidfd that poll() takes; memfd_create is older
_PATIENCE = 5.0  # seconds for a child process that only sleeps to be there


def explain(call: str, error: OSError) -> str:
    """Return a sentence about a system call that the kernel refused, with what is needed."""
    code = errno.errorcode.get(error.errno or 0, str(error))
    return (
        f"the system call {call} fails with {code} on Linux {platform.release()}; tfos_fast needs {LEAST} or newer, and in a "
        f"container a seccomp profile that allows {call}"
    )


def missing(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for each thing that this process needs and does not get; an empty list when it gets all.

    Parameters
    ----------
    environment : mapping
        Environment variables of the process.
    """
    checks = (_memfd, _pidfd, _boot, _namespace, lambda: relative_folder(environment))
    return [text for check in checks if (text := check())]


def boot_id() -> str:
    """Return the identity of the kernel's boot, "" where /proc does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def relative_folder(environment: Mapping[str, str]) -> str:
    """Return a sentence when ``TFOS_RUNTIME_DIR`` is no absolute path, else "".

    Each process of a node has a working folder of its own, so a relative path would name several folders.
    """
    setting = environment.get("TFOS_RUNTIME_DIR", "")
    if not setting or os.path.isabs(setting):
        return ""
    why = (
        "a shell expands ~, an environment variable is taken as it is"
        if setting.startswith("~")
        else "it depends on the working folder"
    )
    return f"TFOS_RUNTIME_DIR={setting!r} is not an absolute path ({why}); set it to a path that begins with /"


def _memfd() -> str:
    try:
        fd = os.memfd_create("tfos_fast", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        return explain("memfd_create", error)
    try:
        os.posix_fallocate(fd, 0, 4096)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return _open_in_child(fd)
    except OSError as error:
        return explain("fcntl(F_ADD_SEALS)", error)
    finally:
        os.close(fd)


def _open_in_child(fd: int) -> str:
    """Open a descriptor of another process of this user, as feed tasks open a node's segment."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(fd,),
    ) as child:
        assert child.stdout is not None
        select.select([child.stdout], [], [], _PATIENCE)
        return open_by_proc(child.pid, fd)


def open_by_proc(pid: int, fd: int) -> str:
    """Return a sentence when the descriptor of another process cannot be opened through /proc, else ""."""
    try:
        os.close(os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, str(error))
        return (
            f"a process may not open /proc/<pid>/fd/<n> of another process of the same user ({code}), which is how feed tasks "
            "reach a node's memory; mount /proc as usual in the container, and allow ptrace reads in its security profile"
        )
    return ""


def _pidfd() -> str:
    try:
        fd = os.pidfd_open(os.getpid())
    except OSError as error:
        return explain("pidfd_open", error)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if poll.poll(0):
            return explain("poll of a pidfd", OSError(errno.EINVAL, "", ""))
    finally:
        os.close(fd)
    return ""


def _boot() -> str:
    if boot_id():
        return ""
    return (
        "/proc/sys/kernel/random/boot_id cannot be read, by which a node tells live processes from those of an earlier boot; "
        "mount /proc with /proc/sys in the container"
    )


def _namespace() -> str:
    try:
        os.readlink("/proc/self/ns/pid")
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, str(error))
        return f"/proc/self/ns/pid cannot be read ({code}); mount /proc as usual in the container"
    return ""
