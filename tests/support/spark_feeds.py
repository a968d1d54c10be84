"""Rows of Spark that are fed, what the nodes noted of them, and waits."""

from __future__ import annotations

import os
import signal
import time


def numbered(sc, sizes):
    """An RDD of (partition, row) pairs with partitions of these sizes."""
    sizes = list(sizes)
    return sc.parallelize(range(len(sizes)), len(sizes)).flatMap(lambda p: ((p, row) for row in range(sizes[p])))


def check_once_and_in_order(nodes, sizes, epochs=1):
    """Every row arrived once (per epoch), each partition at one node and in order."""
    seen = {}
    for rows in nodes.values():
        for partition, row in rows:
            seen.setdefault(partition, []).append(row)
    assert {p: len(rows) for p, rows in seen.items()} == {p: n * epochs for p, n in enumerate(sizes) if n}
    for partition, rows in seen.items():
        if epochs == 1:
            assert rows == list(range(sizes[partition]))
        else:
            assert sorted(rows) == sorted(list(range(sizes[partition])) * epochs)


def wait_for(look, what, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.01)
    return look()


def fed(cluster, name):
    beat = cluster._coordinator.nodes[name].beat
    return beat is not None and beat.rows_published


class Suicide:
    """Rows of a partition whose Python worker is killed once, after some rows."""

    def __init__(self, marker, at):
        self.marker, self.at = marker, at

    def __call__(self, index, rows):
        for n, row in enumerate(rows):
            if index == 1 and n == self.at and not os.path.exists(self.marker):
                open(self.marker, "w").close()
                time.sleep(0.5)  # let what was packed be published
                os.kill(os.getpid(), signal.SIGKILL)
            yield row
