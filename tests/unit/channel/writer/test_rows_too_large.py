"""A row that no slot takes is told with its partition and its number, by each way on which rows come."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest

from tests.support.helpers import broker_here, ended, in_thread
from tfos_fast.channel import Channel
from tfos_fast.errors import RowTooLarge

SMALL, LARGE = b"x" * 10, b"x" * 100_000


def refused(write, how):
    """The text of the writer's error; the reader asks for rows or columns."""
    with broker_here("256k", "16k", end_after=1) as broker, Channel.attach(broker.address) as channel:
        found = []

        def read():
            with channel.reader() as reader:
                if how == "rows":
                    while not reader.ended:
                        found.extend(reader.next_rows(7))
                else:
                    found.extend(reader.batches(7))

        thread, _ = in_thread(read)
        with channel.writer() as writer:
            writer.open_partition("feed1/0/4")
            with pytest.raises(RowTooLarge) as caught:
                write(writer)
        ended(thread)
        assert found  # the rows before it have come
        return str(caught.value)


def rows(values):
    return lambda writer: writer.write_rows((value, i) for i, value in enumerate(values))


def pickled(values):
    batches = [pickle.dumps([(value, i)], 5) for i, value in enumerate(values)]
    return lambda writer: writer.write_pickled(batches)


def arrow(values):
    batches = [pa.RecordBatch.from_pydict({"x": values[:50]}), pa.RecordBatch.from_pydict({"x": values[50:]})]
    return lambda writer: writer.write_batches(batches)


@pytest.mark.parametrize("write", [rows, pickled, arrow])
@pytest.mark.parametrize("how", ["rows", "columns"])
@pytest.mark.parametrize("at", [1, 53, 99])
def test_the_place_of_the_row_is_told(write, how, at):
    values = [LARGE if i == at else SMALL for i in range(100)]
    text = refused(write(values), how)
    assert text.startswith(f"partition feed1/0/4, row {at}: one row needs ")
    assert "make slot_bytes larger (of run, reserve or Channel.create)" in text
    assert len(text) < 250  # the row is not shown


def test_columns_that_are_wider_than_a_slot_are_told_with_the_first_row():
    def write(writer):
        writer.write_rows([(np.zeros(3), 1)] * 5)
        writer.end_partition()
        writer.open_partition("feed1/0/5")
        writer.write_rows([(np.zeros((1, 3)), 1)] * 2 + [("x" * 70_000,)])

    text = refused(write, "rows")
    assert text.startswith("partition feed1/0/5, row 2: one row needs ")
