"""Mappings that a process keeps between connections, and lets go of when their owner ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfos_fast.channel import mappings
from tfos_fast.channel.segment import Segment

OWNER = """
import sys
from tfos_fast.channel.segment import Segment
segment = Segment.create("1m", "64k")
print(segment.fd, segment.id.hex(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner():
    """A process that holds a segment; its id, and the segment's descriptor and identity."""
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    fd, identity = process.stdout.readline().split()
    yield process.pid, int(fd), bytes.fromhex(identity)
    process.kill()
    process.communicate()


@pytest.fixture
def keeping(monkeypatch):
    monkeypatch.setattr(mappings, "_keeps", False)
    mappings.keep_mappings()


def in_maps() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:tfos_fast")


def test_a_mapping_lasts_from_one_connection_to_the_next(keeping, owner):
    first = Segment.open(*owner)
    first.window(3)
    where = first.mapping.address
    first.close()
    assert in_maps() == 1
    second = Segment.open(*owner)
    assert second.mapping.address == where
    assert second._seen == {3}
    second.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_goes_with_its_owner(keeping, owner, how):
    Segment.open(*owner).close()
    held = Segment.open(*owner)
    os.kill(owner[0], how)
    while mappings._kept:
        time.sleep(0.001)
    assert bytes(held.window(0)) == bytes(held.slot_bytes)  # who still uses it may go on
    held.close()
    assert in_maps() == 0


def test_nothing_is_kept_unasked(monkeypatch, owner):
    monkeypatch.setattr(mappings, "_keeps", False)
    Segment.open(*owner).close()
    assert in_maps() == 0
