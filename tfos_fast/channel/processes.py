"""Identity and death of processes on this host, from the kernel: start times, pidfds, and the folder in which sockets live.

A process id alone can be reused; with its start time it cannot. A pidfd becomes readable at the moment a process dies, so nobody
here guesses by heartbeat.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import shutil
import signal
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from tfos_fast.channel.kernel import explain, relative_folder
from tfos_fast.errors import SegmentError, UnsupportedPlatform

_PR_SET_PDEATHSIG = 1
_MAX_SOCKET_PATH = 100  # sun_path holds 108 bytes, the terminating zero included


def started(pid: int) -> int:
    """Start time of a process in clock ticks since boot (field 22 of ``/proc/<pid>/stat``); 0: there is none, or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def alive(pid: int, start: int) -> bool:
    """Whether the process that had this id and start time still runs."""
    return start != 0 and started(pid) == start


def has_ended(pidfd: int) -> bool:
    """Whether the process of a pidfd is dead."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def is_stopped(pid: int) -> bool:
    """Whether the process is held by a SIGSTOP (its terminal's Ctrl-Z, too) or by a debugger."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] in "Tt"


def open_pidfd(pid: int, start: int) -> int | None:
    """A file descriptor that becomes readable when the process dies, or None when it is dead already."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM, errno.EACCES):
            raise UnsupportedPlatform(explain("pidfd_open", error)) from error
        raise
    # Opened first, compared second: the descriptor now holds whatever process we compare.
    if alive(pid, start):
        return fd
    os.close(fd)
    return None


def how_ended(status: int) -> str:
    """An exit status in words, which go behind the name of a process; it is negative when a signal ended it."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "a real-time signal"
    hint = "; the kernel does this when memory runs out" if -status == signal.SIGKILL else ""
    return f"was killed by signal {-status} ({name}){hint}"


def children(pid: int) -> list[int]:
    """The processes that the main thread of this one has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def die_with(parent: int | None) -> None:
    """Ask the kernel to kill this process when its parent's main thread ends, and end now if that has happened already.

    None takes it back.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if parent else 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if parent and os.getppid() != parent:
        os._exit(1)


def runtime_base() -> Path:
    """This user's folder for the runtime directories: ``TFOS_RUNTIME_DIR``, else one in ``XDG_RUNTIME_DIR`` or ``/tmp``.

    It is made with mode 0700 when missing.

    Raises
    ------
    SegmentError
        The folder belongs to somebody else, others may enter it, or the setting is no absolute path.
    """
    uid = os.getuid()
    setting = os.environ.get("TFOS_RUNTIME_DIR")
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    if setting:
        if refused := relative_folder(os.environ):
            raise SegmentError(refused)
        base = Path(setting)
    elif xdg and os.path.isabs(xdg) and os.access(xdg, os.W_OK | os.X_OK) and len(os.fsencode(xdg)) < 40:
        base = Path(xdg) / "tfos_fast"
    else:
        base = Path(f"/tmp/tfos_fast-{uid}")
    with suppress(FileExistsError):
        base.mkdir(mode=0o700, parents=True)
    # In /tmp anybody can put a link of that name; where the user points to is the user's matter.
    info = base.stat() if setting else base.lstat()
    if not stat.S_ISDIR(info.st_mode):
        raise SegmentError(f"{base} is not a folder; remove it, or set TFOS_RUNTIME_DIR to a folder of your own")
    if info.st_uid != uid or stat.S_IMODE(info.st_mode) & 0o077:
        raise SegmentError(
            f"{base} is not a private folder of user {uid} (owner {info.st_uid}, mode {stat.S_IMODE(info.st_mode):04o}); "
            "remove it, chmod it to 0700, or set TFOS_RUNTIME_DIR to a folder of your own"
        )
    return base


def make_runtime_directory() -> Path:
    """Make a new directory of mode 0700 whose name carries this process's id, start time, pid namespace and the kernel's boot.

    Dead owners' directories are reaped first.
    """
    base = runtime_base()
    reap(base)
    pid = os.getpid()
    directory = Path(tempfile.mkdtemp(prefix=f"{pid}-{started(pid)}-{_namespace()}-{_boot()}-", dir=base))
    length = len(os.fsencode(directory / "broker"))
    if length > _MAX_SOCKET_PATH:
        shutil.rmtree(directory)
        raise SegmentError(
            f"the socket path {directory}/broker has {length} bytes, and {_MAX_SOCKET_PATH} are allowed; set TFOS_RUNTIME_DIR to a "
            "shorter folder"
        )
    return directory


def remove_own_directories() -> None:
    """Remove this process's runtime directories, when it has come to nothing."""
    pid = os.getpid()
    for directory in runtime_base().glob(f"{pid}-{started(pid)}-{_namespace()}-{_boot()}-*"):
        shutil.rmtree(directory, ignore_errors=True)


def _namespace() -> int:
    """Where process ids mean what they mean here: containers may share a folder, and must not take each other's for dead."""
    return os.stat("/proc/self/ns/pid").st_ino


def _boot() -> str:
    """The kernel's boot: nobody lives on from another one, in whatever container."""
    return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]


def reap(base: Path | None = None) -> list[Path]:
    """Remove the runtime directories whose owner is dead: it has ended, or the machine has been started anew since.

    Returns
    -------
    list of Path
        What was removed.
    """
    removed = []
    here, boot = str(_namespace()), _boot()
    base = runtime_base() if base is None else base
    for directory in base.iterdir():
        pid, start, namespace, then, *_ = (*directory.name.split("-"), "", "", "", "")
        if not (pid.isdigit() and start.isdigit()):
            continue  # none of ours
        if then != boot or (namespace == here and not alive(int(pid), int(start))):
            shutil.rmtree(directory, ignore_errors=True)  # another reaper may be at it too
            removed.append(directory)
    return removed
