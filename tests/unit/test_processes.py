"""Identity and death of processes, and the runtime folder: real processes and folders."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfos_fast.channel import processes
from tfos_fast.channel.processes import alive, make_runtime_directory, open_pidfd, reap, runtime_base, started
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
    elsewhere = base / f"{2**22 + 1}-1-{namespace + 1}-{boot}-x"  # ids of another container
    strange = base / "notes"
    # Before the power was cut: one has the id and start time of a living process, one was in a container.
    cut = [base / f"{os.getpid()}-{started(os.getpid())}-{namespace}-0badb007-x", base / f"7-1-{namespace + 1}-0badb007-x"]
    for folder in (living, reused, elsewhere, strange, *cut):
        folder.mkdir()
        (folder / "broker").touch()
    assert set(reap()) == {reused, *cut}
    assert sorted(base.iterdir()) == sorted([mine, living, elsewhere, strange])
    process.communicate()
    assert reap(base) == [living]
    mine_again = make_runtime_directory()
    assert mine.exists()
    assert mine_again != mine


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
