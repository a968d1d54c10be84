"""What the operating system withholds is said in one sentence, by a channel and by the look at the executors."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import refuse_calls
from tests.support.preflight_facts import DRIVER, NEED, executor
from tests.support.refuse_calls import NUMBERS
from tfos_fast import errors
from tfos_fast.channel import Channel
from tfos_fast.channel.host import kernel, processes
from tfos_fast.cluster.preflight import checks

REFUSE = refuse_calls.__file__
known = pytest.mark.skipif(platform.machine() not in NUMBERS, reason="the numbers of its system calls are not known here")


def run(command, text, **environment):
    """Standard output and error of a Python program that begins with a command."""
    done = subprocess.run(
        [*command, sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
        check=False,
    )
    return done.stdout + done.stderr


def refusing(code, *calls):
    return [sys.executable, REFUSE, code, ",".join(calls)]


MISSING = "import os\nfrom tfos_fast.channel.host import kernel\nprint(*kernel.missing(os.environ), sep='\\n')"
CHANNEL = "from tfos_fast.channel import Channel\nwith Channel.create(memory='1m') as channel: print(channel.address)"


def test_nothing_is_missing_here():
    assert kernel.missing({}) == []


@known
@pytest.mark.parametrize(
    ("code", "call"), [("EPERM", "memfd_create"), ("ENOSYS", "memfd_create"), ("EPERM", "pidfd_open"), ("ENOSYS", "pidfd_open")]
)
def test_a_refused_system_call_is_named(code, call):
    words = rf"the system call {call} fails with {code} on Linux \S+; tfos_fast needs Linux 5\.3 or newer, .*that allows {call}"
    said = run(refusing(code, call), MISSING).strip()
    assert re.fullmatch(words, said), said
    said = run(refusing(code, call), CHANNEL)
    assert re.search(rf"(?m)^tfos_fast\.errors\.UnsupportedPlatform: {words}$", said), said


@known
def test_each_missing_thing_has_a_sentence():
    assert len(run(refusing("EPERM", "memfd_create", "pidfd_open"), MISSING, TFOS_RUNTIME_DIR="here").splitlines()) == 3


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("unshare") is None, reason="only root may hide a part of /proc")
def test_a_hidden_part_of_proc_is_named(tmp_path):
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc/sys && exec "$@"', "sh"]
    assert run(hide, MISSING).startswith("/proc/sys/kernel/random/boot_id cannot be read, ")
    facts = "from tfos_fast.cluster.spark import probe\nprint(probe.look('tfos_fast', '', {}, None, 1.0, ())['lacking'])"
    assert "mount /proc with /proc/sys in the container" in run(hide, facts)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_a_descriptor_that_may_not_be_opened_through_proc_is_named():
    text = (
        "import os\n"
        "from tfos_fast.channel.host import kernel\n"
        "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        f"print(kernel.open_by_proc({os.getpid()}, 0))\n"
    )
    words = r"may not open /proc/<pid>/fd/<n> .*\(EACCES\), which is how feed tasks reach a node's memory; mount /proc"
    assert re.search(words, run([], text))


@pytest.mark.parametrize("setting", ["runtime", "./runtime", "~/runtime", "~"])
def test_a_runtime_folder_that_is_no_absolute_path_is_refused(setting, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFOS_RUNTIME_DIR", setting)
    words = rf"TFOS_RUNTIME_DIR='{re.escape(setting)}' is not an absolute path \(.*\); set it to a path that begins with /"
    (said,) = kernel.missing(os.environ)
    assert re.fullmatch(words, said)
    with pytest.raises(errors.SegmentError, match=words):
        processes.runtime_base()
    with pytest.raises(errors.SegmentError, match=words):
        Channel.create(memory="64k")
    assert list(tmp_path.iterdir()) == []


def test_a_relative_folder_of_the_session_is_not_taken(monkeypatch, tmp_path):
    """The XDG specification says that a relative XDG_RUNTIME_DIR counts as none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFOS_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", ".")
    assert processes.runtime_base() == Path(f"/tmp/tfos_fast-{os.getuid()}")


def test_socket_paths_are_counted_in_bytes(monkeypatch, tmp_path):
    base = Path(f"/tmp/{'ü' * 30}-{os.getpid()}")  # 61 bytes more than an address has room for, in 31 characters less
    monkeypatch.setenv("TFOS_RUNTIME_DIR", str(base))
    try:
        with pytest.raises(
            errors.SegmentError, match=r"has 1\d\d bytes, and 100 are allowed; set TFOS_RUNTIME_DIR to a shorter folder"
        ):
            processes.make_runtime_directory()
        assert list(base.iterdir()) == []
    finally:
        base.rmdir()


def test_the_look_at_the_executors_names_what_they_lack():
    lack = executor("a", lacking=["the system call x fails"]), executor("b", lacking=["the system call x fails"])
    found = checks.check_executors(lack, DRIVER, NEED)
    assert [(problem.kind, problem.text) for problem in found.problems] == [
        (errors.UnsupportedPlatform, "on each of 2 executors on a, b, the system call x fails")
    ]
    driver = dataclasses.replace(DRIVER, lacking=["the system call x fails", "y"])
    found = checks.check_executors(lack, driver, NEED)
    assert [problem.text for problem in found.problems][1:] == ["on the driver's host front, y"]
