"""Identity and death of processes, and the runtime folder: real processes and folders."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfos_fast.channel import Channel
from tfos_fast.channel.host import processes
from tfos_fast.channel.host.processes import alive, make_runtime_directory, open_pidfd, reap, runtime_base, started
from tfos_fast.channel.protocol.address import Address
from tfos_fast.errors import SegmentError


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tfos") as short:  # pytest's own folders are too long for sockets
        folder = Path(short) / "run"
        monkeypatch.setenv("TFOS_RUNTIME_DIR", str(folder))
        yield folder


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)


def test_start_times_tell_processes_apart_and_zombies_are_dead():
    me = started(os.getpid())
    assert me > 0
    assert alive(os.getpid(), me)
    assert not alive(os.getpid(), me + 1)
    assert not alive(os.getpid(), 0)
    process = sleeper()
    start = started(process.pid)
    assert start >= me
    assert alive(process.pid, start)
    pidfd = open_pidfd(process.pid, start)
    assert pidfd is not None
    assert open_pidfd(process.pid, start + 1) is None
    process.send_signal(signal.SIGKILL)
    assert select.select([pidfd], [], [], 10)[0] == [pidfd]
    os.close(pidfd)
    assert started(process.pid) == 0  # a zombie: nobody has waited for it yet
    assert open_pidfd(process.pid, start) is None
    process.communicate()
    assert open_pidfd(process.pid, start) is None


def test_a_process_name_with_spaces_and_parentheses(tmp_path: Path):
    link = tmp_path / "a) R 1 (b"
    link.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(link), "600"])
    try:
        while (Path(f"/proc/{process.pid}/comm")).read_text().strip() != link.name:
            pass  # until it has started
        assert alive(process.pid, started(process.pid))
        assert started(process.pid) >= started(os.getpid())
    finally:
        process.kill()
        process.wait()


def test_directories_are_private_and_only_those_of_the_dead_are_reaped(base: Path):
    process = sleeper()
    namespace, boot = os.stat("/proc/self/ns/pid").st_ino, Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    mine = make_runtime_directory()
    assert mine.parent == base
    assert mine.stat().st_mode & 0o777 == 0o700
    assert base.stat().st_mode & 0o777 == 0o700
    living = base / f"{process.pid}-{started(process.pid)}-{namespace}-{boot}-x"
    reused = base / f"{os.getpid()}-{started(os.getpid()) + 1}-{namespace}-{boot}-x"  # this id, another process
    strange = base / "notes"
    nobodys = base / f"{os.getpid()}-{started(os.getpid()) + 2}-{namespace}-{boot}-x"  # no file says which host made it
    for folder in (living, reused, strange, nobodys):
        folder.mkdir()
        (folder / "broker").touch()
    for folder in (living, reused, strange):
        (folder / "owner").write_text((mine / "owner").read_text())
    assert reap() == [reused]
    assert sorted(base.iterdir()) == sorted([mine, living, strange, nobodys])
    process.communicate()
    assert reap(base) == [living]
    mine_again = make_runtime_directory()
    assert mine.exists()
    assert mine_again != mine


MAKE = "from tfos_fast.channel.host.processes import make_runtime_directory as make; print(make(), flush=True); input()"


def owner(place: processes._Place) -> tuple[subprocess.Popen[str], Path]:
    """A process that has a runtime directory, as it looks when it runs at another place."""
    code = f"from tfos_fast.channel.host import processes as p\np._Place.here = lambda: p._Place(*{tuple(place)!r})\n{MAKE}"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def places() -> dict[str, processes._Place]:
    here = processes._Place.here()
    boot = "0badb007-0000-4000-8000-000000000000"
    return {
        "this one": here,
        "a container here": here._replace(namespace="4026532999"),
        "this host before it was started anew, or a clone of it": here._replace(boot=boot),
        "a boot whose id begins alike": here._replace(boot=here.boot[:8] + boot[8:]),
        "a clone of this machine that goes on from the same snapshot": here._replace(host="clone"),
        "a container of such a clone": here._replace(host="clone", namespace="4026532999"),
        "another host": here._replace(host="other", boot=boot),
    }


LEFT = {"this one", "a container here"}  # whose end can be known here


@pytest.mark.parametrize("where", places())
def test_only_what_surely_is_no_other_hosts_is_removed(base: Path, where: str):
    process, directory = owner(places()[where])
    try:
        assert (directory / "owner").read_text().splitlines() == list(places()[where])
        assert reap(base) == []  # it lives
    finally:
        process.kill()
        process.communicate()
    assert reap(base) == ([directory] if where in LEFT else [])
    assert directory.exists() == (where not in LEFT)


def test_a_host_whose_name_is_no_text(base: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("socket.gethostname", lambda: "h\udcff")
    directory = make_runtime_directory()
    assert (directory / "owner").read_text().splitlines() == list(processes._Place.here())
    assert reap(base) == []


def test_a_folder_without_locks(base: Path, monkeypatch: pytest.MonkeyPatch):
    """As some network file systems are: the process's own id is what remains, where it means something."""

    def no(*_: object) -> None:
        raise OSError(38, "no locks")

    code = f"import fcntl\ndef no(*_): raise OSError(38, 'no locks')\nfcntl.flock = no\n{MAKE}"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    directory = Path(process.stdout.readline().strip())
    container = base / directory.name.replace(processes._Place.here().namespace, "4026532999")
    container.mkdir()
    (container / "owner").write_text("\n".join(processes._Place.here()._replace(namespace="4026532999")))
    monkeypatch.setattr("fcntl.flock", no)
    assert reap(base) == []
    process.kill()
    process.communicate()
    assert reap(base) == [directory]
    assert container.exists()


def test_reaping_never_fails(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In the end a success must not become an error, nor hide one, because of somebody's folder."""
    assert reap() == []  # there is none, and none is made
    assert not base.exists()
    base.mkdir(mode=0o755)
    assert reap() == []
    base.rmdir()
    base.write_text("a file")
    assert reap() == []
    base.unlink()
    base.symlink_to(tmp_path / "nowhere")
    assert reap() == []
    processes.remove_own_directories()
    for wrong in ("relative", str(tmp_path) + "/\udcff"):
        monkeypatch.setenv("TFOS_RUNTIME_DIR", wrong)
        assert reap() == []
        processes.remove_own_directories()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("run", "not an absolute path"),
        ("/proc/tfos", "cannot be made"),
        ("/tmp/tfos-\udcff", r"TFOS_RUNTIME_DIR=b'/tmp/tfos-\\xff' is not"),
    ],
)
def test_a_setting_that_cannot_be_is_named(setting: str, says: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TFOS_RUNTIME_DIR", setting)
    with pytest.raises(SegmentError, match=says) as caught:
        make_runtime_directory()
    assert "TFOS_RUNTIME_DIR" in str(caught.value)


def test_who_attaches_after_a_cleaner_came(base: Path):
    """Somebody has removed the folder of a broker that lives."""
    with Channel.create("1m", slot_bytes="64k") as channel:
        directory = Path(Address.parse(channel.address).socket).parent
        shutil.rmtree(directory)
        while not (directory / "broker").exists():
            time.sleep(0.01)
        assert (directory / "owner").read_text().splitlines() == list(processes._Place.here())  # it can be reaped when all is over
        with Channel.attach(channel.address).writer() as writer:
            writer.open_partition("p", 0)
    assert not directory.exists()


def test_a_folder_that_others_may_enter_is_refused(base: Path):
    base.mkdir(mode=0o700)
    base.chmod(0o750)
    with pytest.raises(SegmentError, match=r"mode 0750.*TFOS_RUNTIME_DIR"):
        make_runtime_directory()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_somebody_elses_folder_is_refused(base: Path):
    base.mkdir(mode=0o700)
    os.chown(base, 12345, 12345)
    with pytest.raises(SegmentError, match=r"owner 12345"):
        runtime_base()


def test_a_link_or_a_file_in_the_folders_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TFOS_RUNTIME_DIR", raising=False)
    runtime = Path("/tmp") / f"qa{os.getpid()}"  # XDG_RUNTIME_DIR counts only when it is short
    runtime.mkdir(mode=0o700)
    try:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        assert runtime_base() == runtime / "tfos_fast"
        (runtime / "tfos_fast").rmdir()
        (runtime / "tfos_fast").symlink_to(tmp_path)
        with pytest.raises(SegmentError, match="not a folder"):
            runtime_base()
        (runtime / "tfos_fast").unlink()
        (runtime / "tfos_fast").write_text("")
        with pytest.raises(SegmentError, match="not a folder"):
            runtime_base()
        (runtime / "tfos_fast").unlink()
    finally:
        runtime.rmdir()


def test_a_path_too_long_for_a_socket_names_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    long = tmp_path / ("x" * 100)
    monkeypatch.setenv("TFOS_RUNTIME_DIR", str(long))
    with pytest.raises(SegmentError, match="TFOS_RUNTIME_DIR"):
        make_runtime_directory()
    assert list(long.iterdir()) == []
    assert processes._MAX_SOCKET_PATH < 108
