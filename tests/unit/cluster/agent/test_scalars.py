"""Scalars of the feed for TensorBoard: event files as TensorBoard reads them, written by a process of their own."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tfos_fast.cluster.agent.scalars import scalars
from tfos_fast.cluster.protocol import messages as m

event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2")

WRITER = """
import sys
from tfos_fast.cluster.agent import scalars
scalars.follow(sys.stdin.buffer, sys.argv[1]).join()
"""


def counters(rows, size=0, starved=0.0, blocked=0.0):
    return m.Counters(rows, m.Totals(size, starved, blocked))


def events(path: Path):
    """The events of a file: length, its checksum, the event, its checksum."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        yield event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
        at += length + 16


def test_values():
    first = scalars(counters(100, 3 << 20, 0.5, 2.0), None, 0.0)
    assert first == {
        "feed/rows": 100, "feed/rows_per_second": 0.0, "feed/MiB": 3.0,
        "feed/seconds_without_data": 0.5, "feed/seconds_without_space": 2.0,
    }  # fmt: skip
    assert scalars(counters(300), counters(100), 2.0)["feed/rows_per_second"] == 100.0
    assert scalars(counters(0), counters(100), 2.0)["feed/rows_per_second"] == 0.0  # another node of that name


def test_a_curve_for_each_node_without_tensorflow(tmp_path):
    told = [{"chief:0": counters(10), "worker:0": counters(5, 1 << 20, 1.5)}, {"chief:0": counters(20)}]
    lines = b"".join(msgspec.json.encode(nodes) + b"\n" for nodes in told)
    check = WRITER.replace("import sys\n", "import sys\nsys.modules['tensorflow'] = None\n", 1)  # an import would fail
    done = subprocess.run([sys.executable, "-c", check, str(tmp_path)], input=lines, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("feed-")
    found = {}
    for path in folder.glob("*/events.out.tfevents.*"):
        version, *values = events(path)
        assert version.file_version == "brain.Event:2"
        found[path.parent.name] = [{v.tag: v.simple_value for v in event.summary.value} for event in values]
    assert [it["feed/rows"] for it in found["chief_0"]] == [10, 20]
    assert found["worker_0"] == [scalars(told[0]["worker:0"], None, 0.0)]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    line = msgspec.json.encode({"chief:0": counters(1)}) + b"\n"
    command = [sys.executable, "-c", WRITER, str(tmp_path / "file")]
    done = subprocess.run(command, input=2 * line, capture_output=True, text=False, timeout=60)
    assert done.returncode == 0
    assert b"no longer written to" in done.stderr
