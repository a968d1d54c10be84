"""Rows of several writers, one after the other, through a channel of this process; what its reader got."""

from __future__ import annotations

import contextlib
import pickle
from typing import Any

from tests.support.helpers import broker_here, ended, in_thread
from tfos_fast.channel import Channel
from tfos_fast.tf.declarations import null_policies, row_spec
from tfos_fast.values.ragged import Ragged


def columns(
    writers: list[list[Any]], *, n: int = 64, nulls: Any = None, spec: Any = None, pickled: bool = False, memory: str = "1m",
    slot_bytes: str = "64k", **form: Any,
) -> dict[str, list[Any]]:  # fmt: skip
    """The columns of all rows, as Python values. Raises what a writer or the reader raised."""
    with broker_here(memory, slot_bytes, end_after=1) as broker, Channel.attach(broker.address) as channel:
        thread, out = in_thread(lambda: write(channel, writers, pickled=pickled))
        got: dict[str, list[Any]] = {}
        failed = None
        with channel.reader() as reader:
            reader.open_columns(n, row_spec(spec) if spec else None, nulls=null_policies(nulls), wait=False, **form)
            try:
                for batch in reader.batches(n):
                    for name, values in batch.items():
                        got.setdefault(name, []).extend(values.tolist() if isinstance(values, Ragged) else map(_plain, values))
            except Exception as error:
                failed = error
        ended(thread)
        if out != [None]:
            raise out[0]
        if failed is not None:
            raise failed
        return got


def rows(writers: list[list[Any]], *, n: int = 7, pickled: bool = False, memory: str = "1m", slot_bytes: str = "64k") -> list[Any]:
    """All rows, as row mode gives them."""
    with broker_here(memory, slot_bytes, end_after=1) as broker, Channel.attach(broker.address) as channel:
        thread, out = in_thread(lambda: write(channel, writers, pickled=pickled))
        got: list[Any] = []
        failed = None
        with channel.reader() as reader:
            try:
                while not reader.ended:
                    got += reader.next_rows(n)
            except Exception as error:
                failed = error
        ended(thread)
        if out != [None]:
            raise out[0]
        if failed is not None:
            raise failed
        return got


def write(channel: Channel, writers: list[list[Any]], *, pickled: bool = False) -> None:
    """Each list by a writer of its own; all of them are attached meanwhile."""
    with contextlib.ExitStack() as stack:
        attached = [stack.enter_context(channel.writer()) for _ in writers]
        for writer, part in zip(attached, writers, strict=True):
            if pickled:
                writer.write_pickled([pickle.dumps(part[at : at + 3], 5) for at in range(0, len(part), 3)])
            else:
                writer.write_rows(part)
            writer.end_partition()


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value
