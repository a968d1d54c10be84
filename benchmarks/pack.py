"""The packer against pickle and numpy, one row at a time, and against memcpy of the same bytes.

    python -m benchmarks pack [--json FILE] [--repeats N] [--seconds S]

What is measured, per row and as the median of several repeats:

pack
    ``RowPacker.pack_from`` into slots of 4 MB, a new slot whenever one is full.
numpy
    What one writes without this library: ``slot[i] = row`` for each column and row (``np.asarray`` and a copy).
    Strings have no such form; their bytes are encoded and sliced into the slot in Python.
pickle
    ``pickle.dumps(row)`` of each row alone, the copy into a slot not counted.
pickle, both ways
    The same with ``pickle.loads``, which every reader of a queue pays as well.
batched pickle
    ``pickle.dumps`` of 64 rows at once: the fairest form of pickle.
memcpy
    The ceiling: the packed bytes copied from one piece of memory to another, slot by slot.

"hot" rows are 64 different ones again and again, which stay in the processor's cache, as rows do that were just
unpickled. "cold" rows come from a partition larger than the cache, in the order in which they were made: there the
floats' objects themselves have to come from memory, 32 bytes for each that is packed into 4.
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine, show
from tfos_fast.channel.codec.layout import Layout, plan
from tfos_fast.channel.schema.detect import infer
from tfos_fast.channel.schema.widen import apply_spec
from tfos_fast.native.row_packer import END, FULL, RowPacker

SLOT_BYTES = 4 << 20
HOT, BATCH = 64, 256
# 64 rows, so that no hot row comes twice in one pickle, which would be written once.
PICKLE_BATCH = HOT


def aligned(size: int) -> np.ndarray:
    """Memory that is there (touched) and starts at a multiple of 64 bytes."""
    raw = np.ones(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def make_cases(rng: random.Random) -> dict[str, tuple[Callable[[int], Any], dict | None, bool]]:
    """Name -> (how row i is made, declared casts, row mode)."""
    images = np.random.default_rng(0).integers(0, 255, (HOT, 28, 28), np.uint8)
    floats = lambda n: [rng.random() for _ in range(n)]  # noqa: E731
    return {
        "784 floats, list -> float32": (lambda i: floats(784), {"c0": ("float32", None)}, False),
        "784 floats, list -> float64": (lambda i: (floats(784),), None, False),
        "784 floats, list, row mode": (lambda i: (floats(784),), None, True),
        "784 small ints, list -> uint8": (lambda i: [rng.randrange(256) for _ in range(784)], {"c0": ("uint8", None)}, False),
        "28x28 floats, nested lists -> float32": (
            lambda i: [floats(28) for _ in range(28)],
            {"c0": ("float32", None)},
            False,
        ),
        "28x28 uint8 array": (lambda i: images[i % HOT].copy(), None, False),
        "28x28 uint8 array -> float32": (lambda i: images[i % HOT].copy(), {"c0": ("float32", None)}, False),
        "tuple of 10 floats, and an int": (lambda i: (tuple(floats(10)), i), None, False),
        "11 scalars": (lambda i: (*floats(10), i), None, False),
        "dict of int, float, str": (lambda i: {"id": i, "x": rng.random(), "name": f"name {i % 100}"}, None, False),
        "short str": (lambda i: f"a short string {i % 1000}", None, False),
        "list of 100 np.float32": (lambda i: ([np.float32(x) for x in floats(100)],), None, False),
        "object: dict in a tuple": (lambda i: ({i: "x"}, i), None, True),
    }


def wrap(row: Any, spec: dict | None) -> Any:
    """Cases with a cast are bare values in a tuple, so that the column has the name c0."""
    return (row,) if spec is not None else row


def time_it(run: Callable[[], int], repeats: int) -> list[float]:
    """Microseconds per row of each repeat; ``run`` gives the number of rows."""
    run()
    samples = []
    for _ in range(repeats):
        start = time.perf_counter()
        rows = run()
        samples.append((time.perf_counter() - start) / rows * 1e6)
    return samples


def packing(rows: list[Any], count: int, spec: dict | None, exact: bool) -> tuple[Callable[[], int], Layout, int]:
    """The packer over ``count`` rows; also its layout and the bytes that all rows take in slots."""
    schema = infer(rows[0], exact=exact)
    if spec:
        schema = apply_spec(schema, spec)
    has_heap = any(column.kind != "fixed" for column in schema.columns)
    form = plan(schema, SLOT_BYTES, batch=BATCH, heap_per_row=64 if has_heap else 0)
    slots = [aligned(SLOT_BYTES) for _ in range(4)]

    def run() -> int:
        packer = RowPacker(schema, exact=exact, cast=bool(spec))
        source = islice(chain.from_iterable(repeat(rows)), count)
        done, used, turn, event = 0, 0, 0, FULL
        while event != END:
            packer.bind(slots[turn % len(slots)], form)
            event = packer.pack_from(source, 1e9)
            assert event in (END, FULL), (event, packer.misfit)
            done, turn = done + packer.rows, turn + 1
            used += packer.heap_used + packer.rows * sum(column.row_bytes for column in schema.columns)
            packer.unbind()
        assert done == count
        run.bytes = used  # type: ignore[attr-defined]
        return done

    run()
    return run, form, run.bytes  # type: ignore[attr-defined]


def values_of(row: Any) -> tuple[Any, ...]:
    """The values of a row, whatever holds them."""
    if isinstance(row, dict):
        return tuple(row.values())
    return row if isinstance(row, tuple) else (row,)


def by_numpy(rows: list[Any], count: int, form: Layout) -> Callable[[], int] | None:
    """Row by row into arrays over the slot, with numpy alone."""
    if any(column.kind == "object" for column in form.schema.columns):
        return None
    memory = aligned(SLOT_BYTES)
    regions = []
    for column, offset in zip(form.schema.columns, form.offsets, strict=True):
        dtype = column.dtype if column.kind == "fixed" else "uint32"
        shape = (form.capacity, *(column.shape if column.kind == "fixed" else (2,)))
        size = column.row_bytes * form.capacity
        regions.append((memory[offset : offset + size].view(dtype).reshape(shape), column.kind == "string"))

    def run() -> int:
        i, top = 0, form.heap
        for row in islice(chain.from_iterable(repeat(rows)), count):
            if i == form.capacity or top + 1024 > SLOT_BYTES:
                i, top = 0, form.heap
            for (region, is_text), value in zip(regions, values_of(row), strict=True):
                if is_text:
                    data = value.encode()
                    memory[top : top + len(data)] = np.frombuffer(data, np.uint8)
                    region[i] = (top, len(data))
                    top += len(data)
                else:
                    region[i] = value
            i += 1
        return count

    return run


def by_pickle(rows: list[Any], count: int, both: bool) -> Callable[[], int]:
    """Each row alone."""
    dumps, loads = pickle.dumps, pickle.loads

    def run() -> int:
        source = islice(chain.from_iterable(repeat(rows)), count)
        if both:
            for row in source:
                loads(dumps(row, 5))
        else:
            for row in source:
                dumps(row, 5)
        return count

    return run


def by_batched_pickle(rows: list[Any], count: int) -> Callable[[], int]:
    """64 rows in one pickle."""

    def batches() -> Iterator[list[Any]]:
        source = islice(chain.from_iterable(repeat(rows)), count)
        while batch := list(islice(source, PICKLE_BATCH)):
            yield batch

    def run() -> int:
        for batch in batches():
            pickle.dumps(batch, 5)
        return count

    return run


def by_memcpy(total: int, count: int) -> Callable[[], int]:
    """The same bytes from memory to memory, as many at a time as a slot has; sources larger than the cache."""
    sources = [aligned(SLOT_BYTES) for _ in range(16)]
    slots = [aligned(SLOT_BYTES) for _ in range(4)]
    # Small cases copy the same bytes several times: a copy of a few pages cannot be timed.
    times = max(1, (64 << 20) // max(total, 1))

    def run() -> int:
        left, turn = total * times, 0
        while left > 0:
            size = min(left, SLOT_BYTES)
            np.copyto(slots[turn % 4][:size], sources[turn % 16][:size])
            left, turn = left - size, turn + 1
        return count * times

    return run


def measure(make: Callable[[int], Any], spec: dict | None, exact: bool, *, hot: bool, repeats: int, seconds: float) -> dict:
    """All contestants over the same rows."""
    few = [wrap(make(i), spec) for i in range(HOT)]
    run, form, _ = packing(few, HOT, spec, exact)
    per_row = min(time_it(run, 3)) * 1e-6
    count = max(HOT, min(int(seconds / per_row), 200_000))
    rows = few
    if not hot:
        size = len(pickle.dumps(few)) / HOT
        # The rows themselves take about four times as much as their pickle.
        count = int(min(count, max(1000, (192 << 20) / (4 * size))))
        rows = [wrap(make(i), spec) for i in range(count)]
    run, form, used = packing(rows, count, spec, exact)
    slow = max(HOT, count // 20)  # a twentieth is enough for what is slow
    samples = {"pack": time_it(run, repeats), "memcpy": time_it(by_memcpy(used, count), repeats)}
    numpy_run = by_numpy(rows, slow, form)
    if numpy_run is not None:
        samples["numpy"] = time_it(numpy_run, repeats)
    samples["pickle"] = time_it(by_pickle(rows, slow, False), repeats)
    samples["pickle, both ways"] = time_it(by_pickle(rows, slow, True), repeats)
    samples["batched pickle"] = time_it(by_batched_pickle(rows, slow), repeats)
    medians = {name: statistics.median(found) for name, found in samples.items()}
    return {
        "rows": count,
        "slot bytes per row": used / count,
        "samples us/row": samples,
        "median us/row": medians,
        "times faster than": {name: value / medians["pack"] for name, value in medians.items() if name != "pack"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The packer against pickle, numpy and memcpy, row by row.")
    parser.add_argument("--json", type=Path, help="write everything, raw samples included, to this file")
    parser.add_argument("--repeats", type=int, default=7, help="timed repeats of each (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.1, help="about how long a repeat packs (default %(default)s)")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": machine("numpy"), "repeats": options.repeats, "cases": {}}
    show(report["machine"])
    columns = ["pack", "memcpy", "numpy", "pickle", "pickle, both ways", "batched pickle"]
    print(f"\nmedian us/row of {options.repeats} repeats; in brackets how many times the packer's time that is\n")
    print(f"{'case':46}" + "".join(f"{name:>20}" for name in columns))
    for name, (make, spec, exact) in make_cases(random.Random(0)).items():
        if options.only not in name:
            continue
        for hot in (True, False):
            found = measure(make, spec, exact, hot=hot, repeats=options.repeats, seconds=options.seconds)
            label = f"{name}, {'hot' if hot else 'cold'}"
            report["cases"][label] = found
            cells = []
            for column in columns:
                value = found["median us/row"].get(column)
                ratio = found["times faster than"].get(column)
                cells.append("-" if value is None else f"{value:.3f}" + ("" if ratio is None else f" ({ratio:.2f}x)"))
            print(f"{label:46}" + "".join(f"{cell:>20}" for cell in cells), flush=True)
            spread = found["samples us/row"]["pack"]
            print(f"{'':10}pack samples: {' '.join(f'{value:.3f}' for value in spread)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"\nwritten: {options.json}", file=sys.stderr)


if __name__ == "__main__":
    main()
