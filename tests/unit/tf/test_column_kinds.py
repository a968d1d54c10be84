"""Kinds of columns inside TensorFlow: ragged tensors, strings, masks, bfloat16, and the specs that declare them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import tfos_fast
from tests.support.helpers import ended, in_thread, inside
from tfos_fast.channel import Channel
from tfos_fast.channel.schema.columns import Octets
from tfos_fast.channel.schema.widen import Nulls
from tfos_fast.errors import FormError
from tfos_fast.tensors import DataFeed, null_policies, row_spec

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.tensorflow

ROWS = [
    {
        "n": i, "list": list(range(i % 4)), "deep": [[0.5] * (i % 3)] * (i % 2), "words": ["é"] * (i % 3), "text": f"t{i}",
        "maybe": i if i % 2 else None,
    }
    for i in range(150)
]  # fmt: skip
SPEC = {
    "n": "int64", "list": tf.RaggedTensorSpec((None, None), tf.int32), "deep": ("float32", (None, None)),
    "words": ("string", (None,)), "text": tf.TensorSpec((), tf.string), "maybe": tf.TensorSpec((), tf.float32),
}  # fmt: skip


def fed(rows: list[Any], read: Any) -> Any:
    """What ``read(feed)`` gives while the rows are written."""
    with Channel.create(memory="1m", form=None) as channel:

        def write() -> None:
            with channel.writer() as writer:
                writer.write_rows(rows)

        thread, out = in_thread(write)
        feed = DataFeed(channel.reader())
        got = read(feed)
        ended(thread)
        assert out == [None]
        feed.reader.close()
        return got


def rows_of(batches: list[dict[str, Any]]) -> list[tuple]:
    columns = {name: [] for name in batches[0]}
    for batch in batches:
        for name, value in batch.items():
            columns[name] += value.to_list() if isinstance(value, tf.RaggedTensor) else value.numpy().tolist()
    return list(zip(*columns.values(), strict=True))


EXPECTED = [
    (r["n"], r["list"], r["deep"], [w.encode() for w in r["words"]], r["text"].encode(), r["maybe"] or 0.0, r["maybe"] is not None)
    for r in ROWS
]


def test_every_kind_of_tensor():
    batches = fed(ROWS, lambda feed: list(feed.tensors(64, SPEC, nulls={"maybe": tfos_fast.MASK})))
    assert rows_of(batches) == EXPECTED
    first = batches[0]
    assert isinstance(first["list"], tf.RaggedTensor)
    assert (first["list"].dtype, first["deep"].dtype, first["words"].dtype) == (tf.int32, tf.float32, tf.string)
    assert (first["deep"].ragged_rank, first["maybe_mask"].dtype) == (2, tf.bool)


@pytest.mark.parametrize("spec", [SPEC, None], ids=["spec", "inferred"])
def test_every_kind_in_a_dataset(spec: Any):
    def read(feed):
        dataset = feed.dataset(64, spec, nulls=tfos_fast.MASK)
        found = list(dataset)
        for batch in found:
            for name, expected in dataset.element_spec.items():
                assert expected.is_compatible_with(batch[name])
        return found

    rows = ROWS if spec else ROWS[1:] + ROWS[:1]  # the first row says what lists hold
    batches = fed(rows, read)
    assert sorted(batches[0]) == sorted([*SPEC, *(f"{name}_mask" for name in SPEC)])
    batches = [{name: batch[name] for name in [*SPEC, "maybe_mask"]} for batch in batches]
    assert sorted(rows_of(batches)) == sorted(EXPECTED)


def test_a_ragged_dataset_is_shuffled_whole():
    batches = fed(ROWS, lambda feed: list(feed.dataset(64, SPEC, shuffle=50, seed=1, nulls={"maybe": tfos_fast.MASK})))
    rows = rows_of(batches)
    assert rows != EXPECTED
    assert sorted(rows) == EXPECTED


def test_masks_alias_the_slot_and_bfloat16_does():
    def read(feed):
        (batch,) = feed.tensors(64, (("bfloat16", (4,)), "int64"), nulls={"c1": tfos_fast.MASK})
        values, _, mask = batch
        assert inside(np.asarray(memoryview(mask)), feed.reader)
        return values, mask

    values, mask = fed([([float(i)] * 4, i if i % 2 else None) for i in range(64)], read)
    assert values.dtype == tf.bfloat16
    assert tf.cast(values, tf.int32).numpy().tolist() == [[i] * 4 for i in range(64)]
    assert mask.numpy().tolist() == [i % 2 == 1 for i in range(64)]


def test_specs_of_lists_and_text_are_read():
    assert row_spec(SPEC) == {
        "n": ("int64", None), "list": ("int32", (-1,)), "deep": ("float32", (-1, -1)), "words": ("string", (-1,)),
        "text": ("string", ()), "maybe": ("float32", ()),
    }  # fmt: skip
    ragged = tf.RaggedTensorSpec((None, None, 3), tf.float32, ragged_rank=1)
    assert row_spec({"x": ragged, "y": tf.bfloat16, "z": (bytes, ())}) == {
        "x": ("float32", (-1, 3)), "y": ("bfloat16", None), "z": ("bytes", ()),
    }  # fmt: skip
    for spec in (
        tf.RaggedTensorSpec((None, 3), tf.int32, ragged_rank=0),
        tf.RaggedTensorSpec((None, None, None), tf.int32, ragged_rank=1),
    ):
        with pytest.raises(FormError, match="column 'x': the spec says RaggedTensorSpec"):
            row_spec({"x": spec})
    with pytest.raises(FormError, match=r"give one row's shape, or a tf\.RaggedTensorSpec"):
        row_spec({"x": tf.TensorSpec((None, 3), tf.int32)})


def test_policies_for_nulls_are_read():
    assert null_policies(None) == {}
    assert null_policies(0) == {"*": Nulls(fill=0)}
    assert null_policies({"a": tfos_fast.MASK, "b": np.float32(1.5), "c": b"\xff", "d": "x"}) == {
        "a": Nulls(mask=True), "b": Nulls(fill=1.5), "c": Nulls(fill=Octets(b"\xff")), "d": Nulls(fill="x"),
    }  # fmt: skip
    with pytest.raises(FormError, match=r"column 'a': nulls says \[1\]; None can become a number, a text or tfos_fast.MASK"):
        null_policies({"a": [1]})


def test_the_mask_is_the_same_in_another_process():
    """It goes to ``main`` in its arguments; it was refused there as another one."""
    assert pickle.loads(pickle.dumps({"age": tfos_fast.MASK}))["age"] is tfos_fast.MASK
