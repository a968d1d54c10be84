"""Arrow's text that is not UTF-8: Spark makes such, by a cast of binary or from files in another character set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfos_fast.channel import Channel
from tfos_fast.channel.arrow.ragged import check_text, text_spans
from tfos_fast.channel.schema.columns import Column
from tfos_fast.errors import SchemaMismatch


def text(parts: list[bytes], valid: bytes | None = None) -> Any:
    """Text of any bytes: Arrow does not look at them."""
    ends = np.cumsum([0, *map(len, parts)]).astype(np.int32)
    buffers = [None if memory is None else pa.py_buffer(memory) for memory in (valid, ends, b"".join(parts))]
    return pa.Array.from_buffers(pa.string(), len(parts), buffers)


NUMBERS = pa.array([0, 1, 2], pa.int32())
BAD = text([b"ab", b"\xff\xfe"])
BATCHES = {
    "text": BAD,
    "half a character": text([b"ab", b"a\xc3"]),
    "a character in two rows": text([b"a\xc3", b"\xbcb"]),
    "nulls": text([b"ab", b"\xff\xfe", b""], b"\x03"),
    "lists": pa.ListArray.from_arrays(NUMBERS, BAD),
    "structs": pa.StructArray.from_arrays([BAD], ["s"]),
    "dictionary": pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), BAD),
    "maps": pa.MapArray.from_arrays(NUMBERS, BAD, pa.array([1, 2])),
}


ERROR = r"column 'x.*text that is not UTF-8, b'.*feed it as binary"


@pytest.mark.parametrize("form", ["rows", "columns"])
@pytest.mark.parametrize("name", sorted(BATCHES))
def test_the_column_is_named_before_any_row_reaches_a_trainer(name, form):
    batch = pa.record_batch([BATCHES[name]], names=["x"])
    with Channel.create(memory="64k", slot_bytes="16k", form=form, writers=0) as channel:
        with channel.writer() as writer, pytest.raises(SchemaMismatch, match=ERROR):
            writer.write_batch(batch)
        with channel.writer() as writer:
            writer.write_batch(batch.slice(0, 1) if name != "a character in two rows" else batch.slice(0, 0))


@given(st.lists(st.text(max_size=4).map(str.encode) | st.binary(max_size=3), max_size=8), st.integers(0, 3))
def test_text_is_what_python_decodes_row_by_row(parts, start):
    array = text(parts).slice(start)
    good = True
    for part in parts[start:]:
        try:
            part.decode()
        except UnicodeDecodeError:
            good = False
    if good:
        check_text(Column("x", "string"), *text_spans(array))
    else:
        with pytest.raises(SchemaMismatch):
            check_text(Column("x", "string"), *text_spans(array))
