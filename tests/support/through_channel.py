"""Write rows into a channel of this process, and read them."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from tests.support.helpers import broker_here, ended, in_thread, wait_for
from tfos_fast.channel import Channel
from tfos_fast.errors import WriterDied


def unbatched(batch: dict[str, Any]) -> list[dict[str, Any]]:
    columns = {name: values.tolist() for name, values in batch.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def through(rows: list[Any], n: int = 64, *, source: str = "rows", spec: Any = None, **form: Any) -> list[dict[str, Any]]:
    """The rows of a channel's batches."""
    with Channel.create(memory="1m", form=None) as channel:

        def write() -> None:
            with channel.writer() as writer:
                if source == "pickled":
                    writer.write_pickled([pickle.dumps(rows)])
                elif source == "arrow":
                    for some in (rows[:50], rows[50:]):
                        writer.write_batch(pa.RecordBatch.from_pylist(some, pa.RecordBatch.from_pylist(rows).schema))
                else:
                    writer.write_rows(rows)

        thread, out = in_thread(write)
        with contextlib.suppress(WriterDied), channel.reader() as reader:
            reader.open_columns(n, spec, wait=False, **form)
            got = [row for batch in reader.batches(n) for row in unbatched(batch)]
        ended(thread)
        if isinstance(out[0], BaseException):
            raise out[0]
        return got


@contextlib.contextmanager
def ending(broker: Any) -> Iterator[None]:
    """The feed ends behind the block, however that ends."""
    try:
        yield
    finally:
        wait_for(lambda: all(peer.role != "writer" for peer in list(broker.feed.peers.values())))
        broker.do(broker.end_feed)


def read(parts: list[list[Any]], *, source: str = "rows", n: int = 64, spec: Any = None, **form: Any) -> list[dict[str, Any]]:
    """Rows of the batches of a feed; each part is a partition with a writer of its own."""
    with broker_here("2m", "16k") as broker, Channel.attach(broker.address) as channel:

        def write() -> None:
            with ending(broker):
                for part in parts:
                    with channel.writer() as writer:
                        if source == "pickled":
                            writer.write_pickled([pickle.dumps(part[at : at + 2]) for at in range(0, len(part), 2)])
                        else:
                            writer.write_rows(part)

        thread, out = in_thread(write)
        got: list[dict[str, Any]] = []
        with channel.reader() as reader:
            reader.open_columns(n, spec, wait=False, **form)
            for batch in reader.batches(n):
                got += unbatched(batch)
        ended(thread)
        if isinstance(out[0], BaseException):
            raise out[0]
        return got
