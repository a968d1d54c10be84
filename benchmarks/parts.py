"""What a feed cannot do without, each part alone: the floor under the figures of ``python -m benchmarks feed``.

    python -m benchmarks parts [--json FILE] [--repeats N] [--only NAME]

One process, nothing beside it; microseconds of its processor time (all its threads) for a row, medians of several repeats. The
batches' pickled bytes and the slots are larger than the processor's caches, as they are in a feed.

scan
    The compiled scanner reads a pickled batch (``StreamBatch.load``).
scan and pack
    And its numbers are written into a slot.
memcpy
    The columns' bytes copied from one place to another: less than this cannot be written.
read
    The columns' memory summed a slot at a time: less than this cannot be read.
hand out
    Batches of 256 rows as tensors, which alias the slot, by DLPack.
sum
    The columns of such batches summed one by one, as the trainer of the feed benchmark does.
tf.data alone
    A dataset that repeats one batch, ``from_tensors(...).repeat()``: what TensorFlow takes for an element, without any data.
pyarrow alone
    A row group of a Parquet file read (``ParquetFile.read_row_group``).
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine, show
from benchmarks.pack import aligned
from benchmarks.rows import KINDS, Kind, Tally
from benchmarks.trainers import BATCH
from tfos_fast.channel.codec.decode import columns
from tfos_fast.channel.codec.layout import plan
from tfos_fast.channel.schema.detect import infer
from tfos_fast.channel.schema.widen import apply_spec
from tfos_fast.native.dlpack import Exporter
from tfos_fast.native.pickled.batch import StreamBatch
from tfos_fast.native.pickled.pack_rows import pack_stream
from tfos_fast.native.row_packer import END, RowPacker
from tfos_fast.tf.tensors import importer, tensorflow

SLOT_BYTES, SLOTS = 8 << 20, 8
PICKLED = 64 << 20  # bytes of pickled rows
STREAM = 128 << 10  # bytes of one pickled batch, about what Spark makes
Part = tuple[str, int, Callable[[], Any]]  # name, rows, what is timed


def of_a_trainer(slots: list[list[np.ndarray]]) -> list[Part]:
    """Batches of these columns handed out, and summed."""
    places = [(Exporter(arrays), at) for arrays in slots for at in range(0, len(arrays[0]) - BATCH + 1, BATCH)]
    tensors_of = importer()
    batches = [tensors_of(exporter.capsules(at, at + BATCH)) for exporter, at in places]

    def hand_out() -> None:
        for exporter, at in places:
            tensors_of(exporter.capsules(at, at + BATCH))

    def add() -> None:
        tally = Tally()
        for tensors in batches:
            tally.add(tensors)

    return [("hand out", len(batches) * BATCH, hand_out), ("sum", len(batches) * BATCH, add)]


def parts_of(kind: Kind) -> list[Part]:
    """The parts of a feed of pickled rows."""
    row = kind.make(0)
    size = len(pickle.dumps([kind.make(i) for i in range(100)], 5)) // 100
    batch = max(1, STREAM // size)
    streams = [pickle.dumps([kind.make(batch * j + i) for i in range(batch)], 5) for j in range(PICKLED // (batch * size))]
    rows = batch * len(streams)
    schema = infer(row, exact=False)
    if kind.spec:
        schema = apply_spec(schema, {column.name: (dtype, None) for column, dtype in zip(schema.columns, kind.spec, strict=True)})
    form = plan(schema, SLOT_BYTES, batch=BATCH, heap_per_row=0)
    slots = [aligned(SLOT_BYTES) for _ in range(SLOTS)]
    scanner = StreamBatch()

    def scan() -> None:
        for stream in streams:
            scanner.load(stream)

    def scan_and_pack() -> None:
        packer, turn = RowPacker(schema, exact=False, cast=kind.spec is not None), 0
        packer.bind(slots[0], form)
        for stream in streams:
            scanner.load(stream)
            while pack_stream(packer, scanner, 1e9) != END:
                turn += 1
                packer.unbind()
                packer.bind(slots[turn % SLOTS], form)
        packer.unbind()

    scan_and_pack()
    full = [list(columns(form, slot, 0, form.capacity).values()) for slot in slots]
    held = form.capacity * SLOTS
    target = [np.empty_like(array) for array in full[0]]

    def copy() -> None:
        for arrays in full:
            for array, to in zip(arrays, target, strict=True):
                np.copyto(to, array)

    def read() -> None:
        for arrays in full:
            Tally().add(arrays)

    tf = tensorflow()
    count = 2000
    dataset = tf.data.Dataset.from_tensors(tuple(tf.constant(array[:BATCH]) for array in full[0])).repeat(count)

    def iterate() -> None:
        for _ in dataset:
            pass

    return [
        ("scan", rows, scan),
        ("scan and pack", rows, scan_and_pack),
        ("memcpy", held, copy),
        ("read", held, read),
        *of_a_trainer(full),
        ("tf.data alone", count * BATCH, iterate),
    ]


def parts_of_parquet(folder: Path) -> dict[str, list[Part]]:
    """The parts of reading files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    lists = pa.ListArray.from_arrays(np.arange(20_001, dtype=np.int32) * 784, pa.array(random.random(20_000 * 784, np.float32)))
    frames = {
        "frame-array": pa.table({"x": lists, "y": pa.array(np.arange(20_000))}),
        "frame-columns": pa.table({f"c{i}": pa.array(random.random(1_000_000, np.float32)) for i in range(11)}),
    }
    found: dict[str, list[Part]] = {}
    for name, table in frames.items():
        pq.write_table(table, folder / name, row_group_size=len(table))
        file = pq.ParquetFile(folder / name)
        found[name] = [("pyarrow alone", len(table), lambda file=file: file.read_row_group(0, use_threads=False))]  # type: ignore[misc]
    arrays = [column.combine_chunks().to_numpy() for column in frames["frame-columns"].columns]
    slot = [aligned(len(array) * 4).view(np.float32) for array in arrays]
    for array, to in zip(arrays, slot, strict=True):
        to[:] = array
    found["frame-columns"] += of_a_trainer([slot])
    return found


def cpu(part: Callable[[], Any], rows: int, repeats: int) -> list[float]:
    """Processor time of this process in microseconds a row, of each repeat."""
    part()
    samples = []
    for _ in range(repeats):
        begin = time.process_time()
        part()
        samples.append((time.process_time() - begin) / rows * 1e6)
    return samples


def measured(name: str, parts: list[Part], repeats: int) -> dict[str, list[float]]:
    """Measure and print the parts of one case."""
    print(f"\n{name} [us of processor time a row]", flush=True)
    found = {}
    for part, rows, run in parts:
        found[part] = samples = cpu(run, rows, repeats)
        print(f"  {part:<16}{statistics.median(samples):10.4f}   samples", *(f"{sample:.4f}" for sample in samples), flush=True)
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="The parts of a feed, each alone.")
    parser.add_argument("--json", type=Path, help="write everything, raw samples included, to this file")
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats of each (default 5)")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    options = parser.parse_args()
    show(machine("pyarrow", "tensorflow"))
    results = {name: measured(name, parts_of(kind), options.repeats) for name, kind in KINDS.items() if options.only in name}
    with tempfile.TemporaryDirectory() as folder:
        for name, parts in parts_of_parquet(Path(folder)).items():
            if options.only in name:
                results[name] = measured(name, parts, options.repeats)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine("pyarrow", "tensorflow"), "parts": results}, indent=1))


if __name__ == "__main__":
    main()
