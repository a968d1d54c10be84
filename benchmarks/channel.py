"""The channel against memcpy and ``multiprocessing.Queue``: two processes and the broker, every byte read.

Sources are larger than the cache (256 MB, used in turn). The ceiling is memcpy of the same blocks into a ring as large as the
segment, in one process with nobody reading. Each figure is one run in fresh processes; the runs of a case take turns, so that a
change of the machine's speed meets all of them.

    python -m benchmarks channel [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine, show
from tfos_fast.channel import Channel

SPAWN = multiprocessing.get_context("spawn")
BLOCK = 4 << 20
BLOCKS = 64  # 256 MB: no cache holds it
MEMORY = 64 << 20
PICTURE = 784


def sources(block: int = BLOCK) -> list[np.ndarray]:
    """Different blocks of float64 values, larger than the cache together."""
    rng = np.random.default_rng(0)
    return [rng.random(block // 8) for _ in range(BLOCKS * BLOCK // block)]


def read(array: np.ndarray) -> int:
    """Read every byte."""
    return int(array.reshape(-1).view(np.uint64).sum())


# ---- moving 4 MB blocks --------------------------------------------------------------------------------------------------------


def by_memcpy(total: int, block: int = BLOCK) -> float:
    """Bytes per second of copying alone: the ceiling."""
    blocks = sources(block)
    ring = np.ones((MEMORY // block, block // 8))
    begin = time.perf_counter()
    for i in range(total // block):
        np.copyto(ring[i % len(ring)], blocks[i % len(blocks)])
    return total / (time.perf_counter() - begin)


def read_ring(ring: Any, block: int, go: Any, over: Any) -> None:
    blocks = np.frombuffer(ring).reshape(-1, block // 8)
    go.wait()
    while not over.value:
        for values in blocks:
            read(values)


def by_memcpy_beside_a_reader(total: int, block: int = BLOCK) -> float:
    """Bytes per second of copying while another process reads the ring, neither waiting for the other."""
    ring, over, go = SPAWN.RawArray("d", MEMORY // 8), SPAWN.RawValue("b", 0), SPAWN.Barrier(2)
    reader = SPAWN.Process(target=read_ring, args=(ring, block, go, over))
    reader.start()
    blocks, slots = sources(block), np.frombuffer(ring).reshape(-1, block // 8)
    slots[:] = 1
    go.wait()
    begin = time.perf_counter()
    for i in range(total // block):
        np.copyto(slots[i % len(slots)], blocks[i % len(blocks)])
    seconds = time.perf_counter() - begin
    over.value = 1
    reader.join()
    return total / seconds


def by_copy_and_read(total: int) -> float:
    """Bytes per second of copying and reading in one process, no transport at all."""
    blocks = sources()
    ring = np.ones((MEMORY // BLOCK, BLOCK // 8))
    begin = time.perf_counter()
    for i in range(total // BLOCK):
        np.copyto(ring[i % len(ring)], blocks[i % BLOCKS])
        read(ring[i % len(ring)])
    return total / (time.perf_counter() - begin)


def write_arrow(address: Any, total: int, go: Any, block: int = BLOCK) -> None:
    import pyarrow as pa

    batches = [pa.RecordBatch.from_arrays([pa.array(values)], ["x"]) for values in sources(block)]
    with Channel.attach(address).writer() as writer:
        go.wait()
        writer.write_batches(batches[i % len(batches)] for i in range(total // block))


def by_channel_arrow(total: int, block: int = BLOCK) -> float:
    """Bytes per second of Arrow batches through the channel, in slots as large as a batch."""
    with Channel.create(MEMORY, slot_bytes=block) as channel:
        return consume(channel, partial(write_arrow, block=block), total, block // 8, "x")


def consume(channel: Channel, target: Callable[..., None], total: int, rows: int, column: str) -> float:
    go = SPAWN.Barrier(2)
    writer = SPAWN.Process(target=target, args=(channel.address, total, go))
    writer.start()
    with channel.reader() as reader:
        reader.open_columns(rows, wait=False)
        go.wait()
        begin = time.perf_counter()
        seen = 0
        for batch in reader.batches(rows):
            read(batch[column])
            seen += batch[column].nbytes
        seconds = time.perf_counter() - begin
        copied = reader.summary["copied"]
    writer.join()
    if seen != total or copied > 1:
        raise SystemExit(f"{seen} bytes of {total} came, {copied} batches were copied")
    return total / seconds


def put_blocks(queue: Any, total: int, go: Any) -> None:
    blocks = sources()
    go.wait()
    for i in range(total // BLOCK):
        queue.put(blocks[i % BLOCKS])
    queue.put(None)


def by_queue_blocks(total: int) -> float:
    """Bytes per second of the same blocks through a multiprocessing.Queue."""
    part = total // 8  # it is slow, and steady
    return from_queue(put_blocks, part, lambda item: read(item), part)


def from_queue(target: Callable[..., None], argument: Any, use: Callable[[Any], Any], amount: float) -> float:
    queue, go = SPAWN.Queue(maxsize=16), SPAWN.Barrier(2)
    writer = SPAWN.Process(target=target, args=(queue, argument, go))
    writer.start()
    go.wait()
    begin = time.perf_counter()
    while (item := queue.get()) is not None:
        use(item)
    seconds = time.perf_counter() - begin
    writer.join()
    return amount / seconds


# ---- rows: (784 float32, label) ------------------------------------------------------------------------------------------------


def pictures(count: int) -> list[tuple[np.ndarray, int]]:
    values = np.random.default_rng(1).random((count, PICTURE), np.float32)
    return [(values[i], i % 10) for i in range(count)]


def write_pictures(address: str, count: int, go: Any) -> None:
    rows = pictures(20_000)
    with Channel.attach(address).writer() as writer:
        go.wait()
        for start in range(0, count, len(rows)):
            writer.write_rows(rows[: min(len(rows), count - start)])


def by_channel_rows(count: int) -> float:
    """Rows per second, packed by write_rows and read as batches of 256."""
    with Channel.create(MEMORY, slot_bytes=BLOCK) as channel:
        go = SPAWN.Barrier(2)
        writer = SPAWN.Process(target=write_pictures, args=(channel.address, count, go))
        writer.start()
        seen = 0
        with channel.reader() as reader:
            reader.open_columns(256, wait=False)
            go.wait()
            begin = time.perf_counter()
            for batch in reader.batches(256):
                read(batch["c0"].view(np.float64))
                seen += len(batch["c1"])
            seconds = time.perf_counter() - begin
        writer.join()
    if seen != count:
        raise SystemExit(f"{seen} rows of {count} came")
    return count / seconds


def put_rows(queue: Any, count: int, go: Any) -> None:
    rows = pictures(20_000)
    go.wait()
    for i in range(count):
        queue.put(rows[i % len(rows)])
    queue.put(None)


def by_queue_rows(count: int) -> float:
    """Rows per second, one item each, through a multiprocessing.Queue."""
    return from_queue(put_rows, count, lambda item: read(item[0].view(np.float64)), count)


def put_batches(queue: Any, count: int, go: Any) -> None:
    rows = pictures(20_000)
    go.wait()
    for start in range(0, count, 256):
        chosen = [rows[i % len(rows)] for i in range(start, min(start + 256, count))]
        queue.put((np.stack([picture for picture, _ in chosen]), np.array([label for _, label in chosen])))
    queue.put(None)


def by_queue_batches(count: int) -> float:
    """Rows per second when the writer stacks them into batches of 256 first."""
    return from_queue(put_batches, count, lambda item: read(item[0].view(np.float64)), count)


# ---- small messages: where a queue is better -----------------------------------------------------------------------------------


def write_small(address: str, count: int, go: Any) -> None:
    writer = Channel.attach(address).writer()
    go.wait()
    for i in range(count):
        writer.write_rows([(i,)])
        writer.end_partition()
    writer.close()


def by_channel_small(count: int) -> float:
    """Partitions of a single row per second."""
    with Channel.create("4m") as channel:
        go = SPAWN.Barrier(2)
        writer = SPAWN.Process(target=write_small, args=(channel.address, count, go))
        writer.start()
        with channel.reader() as reader:
            reader.open_columns(1, wait=False)
            go.wait()
            begin = time.perf_counter()
            seen = sum(1 for _ in reader.batches(1))
            seconds = time.perf_counter() - begin
        writer.join()
    if seen != count:
        raise SystemExit(f"{seen} of {count} came")
    return count / seconds


def put_small(queue: Any, count: int, go: Any) -> None:
    go.wait()
    for i in range(count):
        queue.put((i,))
    queue.put(None)


def by_queue_small(count: int) -> float:
    """Single rows per second through a multiprocessing.Queue."""
    return from_queue(put_small, count, lambda item: item, count)


CASES: dict[str, tuple[str, int, float, dict[str, Callable[[int], float]]]] = {
    "4 MB Arrow batches": (
        "GB/s",
        8 << 30,  # the ring of memcpy is touched before it is timed; the channel's first touch of its slots is in its figure
        1e9,
        {
            "memcpy (ceiling)": by_memcpy,
            "copy and read, one process": by_copy_and_read,
            "channel": by_channel_arrow,
            "multiprocessing.Queue": by_queue_blocks,
        },
    ),
    "rows of (784 float32, int), batches of 256": (
        "thousand rows/s",
        200_000,
        1e3,
        {"channel": by_channel_rows, "Queue, a row an item": by_queue_rows, "Queue, stacked batches": by_queue_batches},
    ),
    "partitions of one int": ("thousand/s", 5_000, 1e3, {"channel": by_channel_small, "Queue": by_queue_small}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write everything, raw samples included, to this file")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": machine("numpy", "pyarrow", "pyzmq"), "cases": {}}
    show(report["machine"])
    for title, (unit, amount, scale, ways) in CASES.items():
        samples: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, run in ways.items():
                samples[name].append(run(amount) / scale)
        report["cases"][title] = {"unit": unit, "samples": samples}
        medians = {name: statistics.median(values) for name, values in samples.items()}
        print(f"\n{title}: median {unit} of {options.repeats}, and the channel's ratio to it")
        for name, median in medians.items():
            raw = " ".join(f"{value:.2f}" for value in samples[name])
            print(f"  {name:30} {median:9.2f}   {medians['channel'] / median:6.2f}x   samples {raw}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
