"""What a trainer prints is passed on whole, and its last lines are kept."""

from __future__ import annotations

import os

from tfos_fast.cluster.agent.log_tail import KEPT, LINES, LogTail


def printed(tmp_path, text):
    """A LogTail after this text, and what it passed on."""
    source, end = os.pipe()
    log = tmp_path / "log"
    with open(log, "wb") as target:
        tail = LogTail(source, target.fileno())
        with open(end, "wb") as out:
            out.write(text)
        tail.wait(10)
    return tail, log.read_bytes()


def test_a_short_log_is_kept_whole(tmp_path):
    tail, log = printed(tmp_path, b"one\ntwo\n")
    assert log == b"one\ntwo\n"
    assert tail.tail() == "one\ntwo"


def test_of_a_long_log_the_last_lines_are_kept(tmp_path):
    text = b"".join(b"line %d\n" % i for i in range(100_000))
    tail, log = printed(tmp_path, text)
    assert log == text
    assert tail.tail().splitlines() == [f"line {i}" for i in range(100_000 - LINES, 100_000)]
    tail, _ = printed(tmp_path, b"x" * 3 * KEPT + b"\nlast\n")
    assert tail.tail() == "last"


def test_what_is_told_elsewhere_is_left_out(tmp_path):
    tail, _ = printed(tmp_path, b"epoch 1\nTraceback (most recent call last):\nKeyError: 1\nbye\n")
    assert tail.tail(before="Traceback (most recent call last):\nKeyError: 1\n") == "epoch 1"


def test_a_log_that_nobody_takes_any_more_does_not_stop_the_program(tmp_path):
    source, end = os.pipe()
    reading, broken = os.pipe()
    os.close(reading)
    tail = LogTail(source, broken)
    with open(end, "wb") as out:
        out.write(b"one\n" * 100_000)
    tail.wait(10)
    os.close(broken)
    assert tail.tail().splitlines()[-1] == "one"


def test_what_was_printed_before_is_kept(tmp_path):
    source, end = os.pipe()
    with open(tmp_path / "log", "wb") as target:
        tail = LogTail(source, target.fileno())
        with open(end, "wb", buffering=0) as out:
            for i in range(500):
                out.write(b"line %d\n" % i)
                tail.catch_up(10)
                assert tail.tail().endswith(f"line {i}")
        tail.wait(10)
        tail.catch_up(10)  # its end has been read
