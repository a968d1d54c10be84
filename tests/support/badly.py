"""Programs that read their rows, and then do what a program should not do. ``args["how"]`` names it for each node."""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.spark.mains import note


def main(args, ctx):
    """Read all rows, leave them, and end badly."""
    feed = ctx.get_data_feed()
    rows = []
    while not feed.should_stop():
        rows += feed.next_batch(50)
    note(args["out"], ctx, rows)
    HOW[args["how"][ctx.task_index]](args)


def early(args, ctx):
    """Leave before all rows are read."""
    feed = ctx.get_data_feed()
    feed.next_batch(5)
    os._exit(0)


def unread(args, ctx):
    """End badly without a look at the feed."""
    HOW[args["how"][ctx.task_index]](args)


def crash_at_exit(args):
    """As CUDA, gRPC and NCCL do."""
    atexit.register(lambda: ctypes.string_at(0))


def killed_at_exit(args):
    atexit.register(lambda: os.kill(os.getpid(), signal.SIGKILL))


def stopped_at_exit(args):
    atexit.register(lambda: os.kill(os.getpid(), signal.SIGSTOP))


def status_at_exit(args):
    atexit.register(lambda: os._exit(7))


def exit_zero(args):
    os._exit(0)


def stdout_closed(args):
    sys.stdout.close()


def stdout_descriptor_closed(args):
    print("words", end="")
    os.close(1)


def stdout_without_flush(args):
    sys.stdout = object()


def stdout_none(args):
    sys.stdout = None


def stdout_full(args):
    sys.stdout = open("/dev/full", "w")  # noqa: SIM115
    sys.stdout.write("words")


class Broken:
    def write(self, text):
        raise BrokenPipeError(text)

    flush = write


def _fail():
    raise ArithmeticError("planned after the feed")


def stderr_closed(args):
    sys.stderr.close()
    _fail()


def stderr_descriptor_closed(args):
    os.close(2)
    _fail()


def stderr_none(args):
    sys.stderr = None
    _fail()


def stderr_broken(args):
    sys.stdout = sys.stderr = Broken()
    _fail()


def stderr_full(args):
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
    _fail()


def stderr_blocked(args):
    """Nobody reads it, so that it holds up whoever writes."""
    write = os.pipe()[1]
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 1000)
    except BlockingIOError:
        os.set_blocking(write, True)
    sys.stderr = os.fdopen(write, "w")
    _fail()


def all_descriptors_closed(args):
    """As a program that makes itself a daemon does; then it opens files of its own."""
    os.closerange(3, 256)
    for name in "abcdefghijklmnop" * 4:
        os.open(Path(args["out"], name), os.O_RDWR | os.O_CREAT)
    _fail()


def other_descriptors_closed(args):
    """All that it has, the feed's among them; then it returns."""
    os.closerange(3, 256)


def interrupted(args):
    """As by Ctrl-C, or by a signal's handler, when the feed is left."""

    def look(frame, event, arg):
        if event == "call" and frame.f_code.co_name == "_close":
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(look)


def threads_taken_away(args):
    threading.enumerate = None


def small_files(args):
    """It limits the size of files that this process writes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def small_files_and_failure(args):
    small_files(args)
    _fail()


def workers(args):
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), name="loader").start()


def words_that_cannot_be_printed(args):
    class Wordless(Exception):
        def __str__(self):
            raise RecursionError

        __repr__ = __str__

    raise Wordless


def forks(args):
    """Both processes come to the end of ``main``; the child first, and with an error."""
    if os.fork() == 0:
        raise ArithmeticError("of the child")
    os.wait()


def thread(args):
    threading.Thread(target=time.sleep, args=(600,), name="saver").start()


def sleeps(args):
    time.sleep(600)


def exit_handler(args):
    signal.signal(signal.SIGTERM, lambda *_: None)  # it takes SIGKILL
    atexit.register(time.sleep, 600)


def daemon_thread(args):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def child(args):
    """It keeps what it has inherited open."""
    subprocess.Popen(["sleep", "600"], close_fds=False)


def signals(args):
    """Leave the signals that this process finds ignored or blocked, and those that a program of its own does."""
    ignored = [number.name for number in signal.Signals if signal.getsignal(number) is signal.SIG_IGN]
    blocked = [number.name for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
    out = subprocess.run(["grep", "SigIgn", "/proc/self/status"], capture_output=True, text=True).stdout
    Path(args["out"], "signals").write_text(f"{ignored} {blocked} {signal.getsignal(signal.SIGINT).__name__} {out.split()[1]}")


def surroundings(args):
    """Leave folder, variable and path as bytes."""
    found = [os.getcwdb(), os.environb[b"TFOS_TEST_\xffNAME"], next(os.fsencode(path) for path in sys.path if "path-" in path)]
    Path(args["out"], "surroundings").write_bytes(b"\n".join(found))


def wait_for_file(args, ctx):
    """Wait until the test has looked."""
    Path(args["out"], "runs").touch()
    while not Path(args["out"], "go").exists():
        time.sleep(0.01)


HOW = {each.__name__: each for each in list(globals().values()) if callable(each) and getattr(each, "__module__", "") == __name__}


SLEEP = [sys.executable, "-c", "import time; time.sleep(600)", "tfos-test-descendant"]


def families(args, ctx):
    """Start processes in every way to leave a process's session; note their ids."""
    pids = [subprocess.Popen(SLEEP, start_new_session=True).pid]  # a session of its own
    pids.append(subprocess.Popen(SLEEP, preexec_fn=lambda: os.setpgid(0, 0)).pid)
    # An orphan in a session of its own, as daemons make themselves; and one that ignores SIGTERM and has a child in another one.
    daemon = "import os, subprocess, sys; print(subprocess.Popen(sys.argv[1:], start_new_session=True, stdout=2).pid, flush=True)"
    for _ in range(2):
        made = subprocess.run([sys.executable, "-c", daemon, *SLEEP], stdout=subprocess.PIPE, text=True)
        pids.append(int(made.stdout))
    stubborn = (
        "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(os.getpid(), subprocess.Popen(sys.argv[1:], start_new_session=True, stdout=2).pid, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", stubborn, *SLEEP], start_new_session=True, stdout=subprocess.PIPE, text=True)
    pids += map(int, process.stdout.readline().split())
    subprocess.run([sys.executable, "-c", "import subprocess; subprocess.Popen(['true'], start_new_session=True)"])  # a zombie
    note(args["out"], ctx, pids, kind="pids")
    if args["then"] == "returns":
        return
    if args["then"] == "raises":
        raise ArithmeticError("planned")
    time.sleep(600)
