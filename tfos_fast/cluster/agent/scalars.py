"""How the feed fares, as scalars that TensorBoard shows; written in the TensorBoard process of the chief, without TensorFlow.

The driver hears from every node once a second and passes the counters on to the agent that runs TensorBoard; that one writes them,
a line each time, to TensorBoard's standard input.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

import msgspec

from tfos_fast.cluster.protocol import messages as m

log = logging.getLogger("tfos_fast.agent")

MIB = 1 << 20


def scalars(now: m.Counters, before: m.Counters | None, seconds: float) -> dict[str, float]:
    """Tag -> value of one node, from its counters now and some seconds before. Pure."""
    rows = now.rows - before.rows if before is not None else 0
    return {
        "feed/rows": now.rows,
        "feed/rows_per_second": max(rows, 0) / seconds if seconds > 0 else 0.0,
        "feed/MiB": now.totals.bytes / MIB,
        "feed/seconds_without_data": now.totals.starved,
        "feed/seconds_without_space": now.totals.blocked,
    }


class FeedScalars:
    """Event files of all nodes, in a folder of this run below TensorBoard's folder of logs; one sub-folder, so one curve, a node.

    Parameters
    ----------
    logdir : str
        Where TensorFlow alone can write (``hdfs://...``), its own file functions are used.
    """

    def __init__(self, logdir: str) -> None:
        self._begin = time.time()
        self.folder = f"{logdir.rstrip('/')}/feed-{time.strftime('%Y%m%d-%H%M%S', time.localtime(self._begin))}"
        self._files: dict[str, tuple[IO[bytes], Any]] = {}  # node -> its file, and the writer of records around it
        self._before: dict[str, tuple[float, m.Counters]] = {}

    def write(self, nodes: Mapping[str, m.Counters], now: float | None = None) -> None:
        """Write a value of each scalar for each node; ``step`` is in seconds since the start."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        now = time.time() if now is None else now
        for name, counters in nodes.items():
            then, before = self._before.get(name, (now, None))
            self._before[name] = now, counters
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(counters, before, now - then).items()]
            event = Event(wall_time=now, step=max(0, round(now - self._begin)), summary=Summary(value=values))
            file, records = self._files.get(name) or self._open(name, now)
            records.write(event.SerializeToString())
            file.flush()

    def _open(self, name: str, now: float) -> tuple[IO[bytes], Any]:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = f"{self.folder}/{name.replace(':', '_')}"
        path = f"{folder}/events.out.tfevents.{int(now)}.{socket.gethostname()}.feed"
        if "://" in folder:
            from tensorboard.compat import tf

            tf.io.gfile.makedirs(folder)
            file = tf.io.gfile.GFile(path, "wb")
        else:
            os.makedirs(folder, exist_ok=True)
            file = open(path, "wb")  # noqa: SIM115  # until the end of the process
        opened = self._files[name] = file, RecordWriter(file)
        opened[1].write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        return opened

    def close(self) -> None:
        """Close the files."""
        for file, _ in self._files.values():
            file.close()


def follow(source: IO[bytes], logdir: str) -> threading.Thread:
    """Write what comes from ``source``, on a thread that ends the process when that ends: TensorBoard has no further use then."""

    def run() -> None:
        written = FeedScalars(logdir)
        try:
            for line in source:
                written.write(msgspec.json.decode(line, type=dict[str, m.Counters]))
            written.close()
        except (OSError, ImportError) as error:
            log.warning("how the feed fares is no longer written to %s: %s", written.folder, error)
            for _ in source:
                pass
        os._exit(0)

    thread = threading.Thread(target=run, name="tfos-scalars", daemon=True)
    thread.start()
    return thread
