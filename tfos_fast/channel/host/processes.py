"""Identity and death of processes on this host, from the kernel: start times, pidfds, and the folder in which sockets live.

A process id alone can be reused; with its start time it cannot. A pidfd becomes readable at the moment a process dies, so nobody
here guesses by heartbeat.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import shutil
import signal
import socket
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tfos_fast.channel.host.descriptors import none_left
from tfos_fast.channel.host.kernel import explain, relative_folder
from tfos_fast.errors import SegmentError, UnsupportedPlatform

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MAX_SOCKET_PATH = 100  # sun_path holds 108 bytes, the terminating zero included
_OWNER = "owner"  # file in a runtime directory: names its host, and its owner holds a lock on it
_locks: dict[Path, list[int]] = {}  # runtime directory of this process -> descriptors that hold its locks


def host_name() -> str:
    """The name by which messages call this host: text, also where the name is none."""
    return socket.gethostname().encode("utf-8", "backslashreplace").decode()


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
    """Whether the process is held by a SIGSTOP (its terminal's Ctrl-Z, too) or by a debugger.

    False also where no file descriptor is left to look with.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError as error:
        if none_left(error):
            return False
        raise
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
    try:
        if alive(pid, start):
            return fd
    except OSError:  # no descriptor is left to look with
        os.close(fd)
        raise
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
    """The processes that the main thread of this one has started; none where no file descriptor is left to look with."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    except OSError as error:
        if none_left(error):
            return []
        raise


def die_with(parent: int | None) -> None:
    """Ask the kernel to kill this process when its parent's main thread ends, and end now if that has happened already.

    None takes it back.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if parent else 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if parent and os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Make this process the parent of its descendants whose own parents end, in the place of init.

    A kernel or container that refuses leaves them to init, as they were.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _where() -> tuple[Path, bool]:
    """Where this user's runtime directories lie, and whether TFOS_RUNTIME_DIR says so."""
    setting = os.environ.get("TFOS_RUNTIME_DIR")
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    if setting:
        if refused := relative_folder(os.environ):
            raise SegmentError(refused)
        if not _is_text(setting):
            raise SegmentError(f"TFOS_RUNTIME_DIR={os.fsencode(setting)!r} is not UTF-8; set it to a folder whose name is")
        return Path(setting), True
    if xdg and _is_text(xdg) and os.path.isabs(xdg) and os.access(xdg, os.W_OK | os.X_OK) and len(os.fsencode(xdg)) < 40:
        return Path(xdg) / "tfos_fast", False
    return Path(f"/tmp/tfos_fast-{os.getuid()}"), False


def _is_text(path: str) -> bool:
    """Whether a path is UTF-8: addresses of channels travel as text."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_private(base: Path, *, follow: bool) -> None:
    """Refuse a folder that is not this user's alone."""
    uid = os.getuid()
    try:
        # In /tmp anybody can put a link of that name; where the user points to is the user's matter.
        info = base.stat() if follow else base.lstat()
    except OSError as error:
        raise SegmentError(f"{base} cannot be used: {error.strerror}; set TFOS_RUNTIME_DIR to a folder of your own") from error
    if not stat.S_ISDIR(info.st_mode):
        raise SegmentError(f"{base} is not a folder; remove it, or set TFOS_RUNTIME_DIR to a folder of your own")
    if info.st_uid != uid or stat.S_IMODE(info.st_mode) & 0o077:
        raise SegmentError(
            f"{base} is not a private folder of user {uid} (owner {info.st_uid}, mode {stat.S_IMODE(info.st_mode):04o}); "
            "remove it, chmod it to 0700, or set TFOS_RUNTIME_DIR to a folder of your own"
        )


def runtime_base() -> Path:
    """Return this user's folder for the runtime directories: ``TFOS_RUNTIME_DIR``, else one in ``XDG_RUNTIME_DIR`` or ``/tmp``.

    It is made with mode 0700 when missing.

    Raises
    ------
    SegmentError
        The folder cannot be made, belongs to somebody else, or others may enter it.
    """
    base, chosen = _where()
    try:
        base.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        pass
    except OSError as error:
        raise SegmentError(f"{base} cannot be made: {error.strerror}; set TFOS_RUNTIME_DIR to a folder of your own") from error
    _check_private(base, follow=chosen)
    return base


def make_runtime_directory() -> Path:
    """Make a new directory of mode 0700, whose name and owner file say which process of which host it belongs to.

    Directories of this host's dead processes are removed first. Give it back by :func:`remove_runtime_directory`.

    Raises
    ------
    SegmentError
        It cannot be made.
    """
    base = runtime_base()
    reap(base)
    pid, here = os.getpid(), _Place.here()
    try:
        directory = Path(tempfile.mkdtemp(prefix=here.prefix(pid, started(pid)), dir=base))
    except OSError as error:
        raise SegmentError(f"no folder can be made in {base}: {error.strerror}; set TFOS_RUNTIME_DIR to another folder") from error
    length = len(os.fsencode(directory / "broker"))
    if length > _MAX_SOCKET_PATH:
        shutil.rmtree(directory)
        raise SegmentError(
            f"the socket path {directory}/broker has {length} bytes, and {_MAX_SOCKET_PATH} are allowed; set TFOS_RUNTIME_DIR to a "
            "shorter folder"
        )
    _locks[directory] = _lock(directory, here)
    return directory


def make_again(directory: Path) -> None:
    """Make a runtime directory of this process once more, which somebody has removed.

    Raises
    ------
    OSError
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for fd in _locks.pop(directory, ()):
        os.close(fd)
    _locks[directory] = _lock(directory, _Place.here())


def remove_runtime_directory(directory: Path) -> None:
    """Remove a runtime directory of this process. What cannot be removed stays: nothing depends on it any more."""
    shutil.rmtree(directory, ignore_errors=True)
    for fd in _locks.pop(directory, ()):
        os.close(fd)


def remove_own_directories() -> None:
    """Remove this process's runtime directories, when it has come to nothing."""
    for directory in list(_locks):
        remove_runtime_directory(directory)


class _Place(NamedTuple):
    """Which host this is, and where process ids mean what they mean here. No two hosts have all of it in common.

    Machines cloned from one image have one /etc/machine-id, and those resumed from one snapshot have one boot, too.
    """

    host: str  # its name
    boot: str  # of the kernel
    namespace: str  # of process ids; each container has one

    @classmethod
    def here(cls) -> _Place:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return cls(host_name(), boot, str(os.stat("/proc/self/ns/pid").st_ino))

    def prefix(self, pid: int, start: int) -> str:
        """What the name of a directory of a process begins with."""
        return f"{pid}-{start}-{self.namespace}-{self.boot[:8]}-"

    @classmethod
    def read(cls, directory: Path) -> _Place | None:
        """The place that a directory's owner file names; None where there is no such file."""
        try:
            host, boot, namespace = (directory / _OWNER).read_text().splitlines()
        except (OSError, ValueError):
            return None
        return cls(host, boot, namespace)


def _lock(directory: Path, place: _Place) -> list[int]:
    """Lock a directory of this process, and its owner file, for as long as the process lives; gives the descriptors.

    Systemd's cleaner of ``/tmp`` leaves a locked directory alone. The lock on the file tells processes of other namespaces that the
    owner lives. Some file systems have no locks.
    """
    fds: list[int] = []
    with suppress(OSError):
        fds.append(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        fcntl.flock(fds[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    unfinished = directory / f"{_OWNER}.new"
    try:
        fds.append(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.write(fds[-1], "\n".join(place).encode())
        with suppress(OSError):
            fcntl.flock(fds[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        unfinished.rename(directory / _OWNER)  # nobody sees it without its lock
    except OSError:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return fds


def _is_locked(directory: Path) -> bool | None:
    """Whether some process holds the lock on a directory's owner file; None where nobody can tell."""
    try:
        fd = os.open(directory / _OWNER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(fd)
    return False


def _is_left(directory: Path, here: _Place) -> bool:
    """Whether the owner of a directory is surely dead.

    A folder on storage that hosts share has directories of them all: only those of this host and this boot are looked at, and
    those without an owner file are nobody's. In another namespace a process id means another process, and the lock must tell.
    """
    pid, start, *_ = (*directory.name.split("-"), "")
    owner = _Place.read(directory)
    if owner is None or not (pid.isdigit() and start.isdigit()) or (owner.host, owner.boot) != (here.host, here.boot):
        return False
    if owner.namespace == here.namespace:
        return not alive(int(pid), int(start)) and not _is_locked(directory)
    return _is_locked(directory) is False


def reap(base: Path | None = None) -> list[Path]:
    """Remove the runtime directories that dead processes of this host have left.

    It never fails: where there is no folder, or one that cannot be used, nothing is removed.

    Returns
    -------
    list of Path
        What was removed.
    """
    removed = []
    try:
        if base is None:
            base, chosen = _where()
            _check_private(base, follow=chosen)
        here = _Place.here()
        for directory in base.iterdir():
            if _is_left(directory, here):
                shutil.rmtree(directory, ignore_errors=True)  # another reaper may be at it too
                removed.append(directory)
    except OSError:
        return removed
    return removed
