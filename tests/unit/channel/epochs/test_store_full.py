"""Kept epochs on a disk that is full, in fact, and larger than the memory that they pass through."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.helpers import broker_here
from tests.support.kept_epochs import Kept

KEEP = """
import sys
import numpy as np
from tfos_fast.channel.epochs import store
from tfos_fast.channel.codec.layout import layout
from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.errors import StoreFull

store.CHUNK_BYTES = 64 << 10
if sys.argv[1] == "taken":  # somebody else fills the disk behind our look at it
    store.Store._free = lambda self: (1 << 30, "as it was")
where = layout(Schema("bare", (Column("c0", "fixed", "uint8", (10_000,)),)), 4, 1 << 16)
kept = store.Store("disk", 1 << 20)
try:
    while True:
        kept.add(where, np.full(1 << 16, len(kept.entries) % 256, np.uint8), 4, 0)
except StoreFull as error:
    print(error)
view = kept.view()
for i, block in enumerate(kept.entries):
    assert bytes(view.buffer(block)[:40_000]) == bytes([i]) * 40_000
print("rows", kept.rows)
"""


@pytest.mark.parametrize(
    ("how", "found"), [("seen", "bytes are free (/mnt)"), ("taken", "the kernel refused 65536 more bytes: No space left")]
)
def test_a_full_disk_is_an_error_that_names_it(how: str, found: str) -> None:
    """A file system of 300 KiB, mounted in a namespace of its own."""
    mount = "mount -t tmpfs -o size=300k none /mnt"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this user can mount nothing here, not even in a namespace")
    command = f'{mount} && SPARK_LOCAL_DIRS=/mnt exec "{sys.executable}" -c "$0" {how}'
    told = subprocess.run(["unshare", "-rm", "sh", "-c", command, KEEP], capture_output=True, text=True, check=True).stdout
    text, rows = told.splitlines()
    assert rows == "rows 16"  # four chunks; what was kept is still whole
    assert text.startswith("keep='disk' has kept 16 rows in 262144 bytes, more are to come, and ")
    assert found in text
    assert text.endswith("Raise keep_limit (bytes per node), or make room in /mnt (spark.local.dir).")


def anonymous_mb() -> float:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def test_an_epoch_larger_than_the_memory_is_kept_on_disk_and_replayed_in_little() -> None:
    """48 MB through slots of 64 KiB, then from the file: what is read of it does not stay in this process' own memory."""
    count, width = 12_000, 512
    with broker_here(memory="1m", slot_bytes="64k") as broker:
        it = Kept(broker, "disk", [(np.full(width, i, np.float64) for i in range(count))])
        peak, before = 0.0, 0.0
        for epoch in range(3):
            if epoch:
                done = it.replay()
            at = 0
            while (batch := it.reader.next_batch(64, epoch_ends=True)) is not None:
                assert (batch.columns["c0"][:, :: width - 1] == np.arange(at, at + batch.rows)[:, None]).all()
                at += batch.rows
                if epoch == 0 and at == 640:
                    before = anonymous_mb()
                elif at % 6400 == 0:
                    peak = max(peak, anonymous_mb())
            assert at == count
            if epoch:
                assert done.wait(10)
        it.close()
    assert peak - before < 16, (before, peak)  # of 48
