"""Nested specs: which leaf is for which column, and batches in the spec's structure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfos_fast.errors import FormError
from tfos_fast.tf import specs

IMAGE = ("float32", (784,))
NAMED = SimpleNamespace(dtype="int64", shape=(), name="label")  # as a tf.TensorSpec is


@pytest.mark.parametrize(
    ("spec", "outline", "nested"),
    [
        (None, None, False),
        (("float32", "int32"), ("c0", "c1"), False),
        ((IMAGE, "int32"), ("c0", "c1"), False),
        ([IMAGE], ("c0",), False),
        ((NAMED, NAMED), ("c0", "c1"), False),  # rows are tuples: their columns have no names of their own
        (NAMED, "c0", False),
        ({"x": IMAGE, "y": ("int32", ())}, {"x": "x", "y": "y"}, False),
        ((("float32", "float32"), "int32"), (("c0", "c1"), "c2"), True),
        (({"x": IMAGE, "z": "int8"}, {"y": np.int32}), ({"x": "x", "z": "z"}, {"y": "y"}), True),
        (({"x": IMAGE}, NAMED), ({"x": "x"}, "label"), True),
        (({"c0": IMAGE}, "int32"), ({"c0": "c0"}, "c1"), True),
        ({"in": {"x": IMAGE, "z": "int8"}, "y": "int32"}, {"in": {"x": "in.x", "z": "in.z"}, "y": "y"}, True),
    ],
)
def test_leaves_and_their_columns(spec: Any, outline: Any, nested: bool):
    assert specs.outline(spec) == outline
    assert specs.is_nested(spec) is nested
    names = list(specs.leaves(spec))
    assert specs.arrange(outline, {name: name for name in names}) == outline if spec is not None else not names


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("float32", "'float32' is neither"),
        (IMAGE, "is one column's"),
        (({"x": "int8"}, {"x": "int8"}), "two entries for column 'x'"),
        (({"c1": "int8"}, "int32"), "two entries for column 'c1'"),
        ({1: "int8"}, "the key 1"),
    ],
)
def test_specs_that_are_none(spec: Any, text: str):
    with pytest.raises(FormError, match=text):
        specs.outline(spec)


@given(
    st.recursive(st.sampled_from(["float32", IMAGE, ("int8", 3)]), lambda part: st.lists(part, min_size=1, max_size=4).map(tuple))
)
def test_any_nesting_of_tuples_counts_its_leaves(spec: Any):
    spec = (spec, "int32")
    if specs._is_leaf(spec):
        return
    names = list(specs.leaves(spec))
    assert names == [f"c{i}" for i in range(len(names))]
    values = {name: object() for name in names}
    flat: list[Any] = []

    def walk(part: Any) -> None:
        if isinstance(part, tuple):
            for inner in part:
                walk(inner)
        else:
            flat.append(part)

    walk(specs.arrange(specs.outline(spec), values))
    assert flat == list(values.values())
