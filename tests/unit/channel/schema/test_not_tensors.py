"""Values that no tensor has: the error names their type and what to feed instead."""

from __future__ import annotations

import datetime
import pickle
from typing import Any

import numpy as np
import pytest

from tests.support.through_channel import read
from tfos_fast.errors import SchemaMismatch

sql = pytest.importorskip("pyspark.sql.types")


class Sparse:
    """As scipy's are."""

    def toarray(self) -> np.ndarray:
        return np.zeros((2, 2))


class Tensor:
    """As torch's are."""

    def numpy(self) -> np.ndarray:
        return np.zeros(2)


VALUES = [
    ([{"a": 1, "b": 2}, {"a": 3, "b": 4}], r"values of type dict, which are no tensor; feed a list for each field"),
    ([sql.Row(a=1, b="x")], r"which is no tensor; feed a list for each field"),
    ([[{"a": 1}]], r"values of type dict, .* feed a list for each field"),
    (Sparse(), r"values of type tests.unit.channel.schema.test_not_tensors.Sparse, .* feed value.toarray\(\)"),
    ([Sparse()], r"values of type tests.unit.channel.schema.test_not_tensors.Sparse, .* feed value.toarray\(\)"),
    (Tensor(), r"values of type tests.unit.channel.schema.test_not_tensors.Tensor, .* feed value.numpy\(\)"),
    (datetime.time(12, 30), r"values of type datetime.time, .* feed a datetime.timedelta since midnight"),
    ({1: 2}, r"values of type dict, .* feed its keys and its values as two lists"),
    ({1, 2}, r"values of type set, .* feed sorted\(value\)"),
    ([1, "x"], r"a list of int, str, .* feed lists of one type and one depth"),
    ([[1], 2], r"a list of int, list, .* feed lists of one type"),
    (np.ma.array([1, 2], mask=[True, False]), r"MaskedArray, .* feed value.filled"),
    (2**70, r"one int, .* beyond the range of 64 bits"),
    (object, r"values of type type, .* feed numbers, text or lists of these, or declare the column 'object'"),
]  # fmt: skip


@pytest.mark.parametrize("source", ["rows", "pickled"])
@pytest.mark.parametrize("spec", [None, {"c1": ("float32", (2,))}], ids=["inferred", "spec"])
@pytest.mark.parametrize(("value", "text"), VALUES, ids=map(str, range(len(VALUES))))
def test_the_error_names_the_type_and_the_way_out(value: Any, text: str, spec: Any, source: str) -> None:
    pickle.dumps(value)
    for rows in ([(0, value)], [(0, [1.0, 2.0]), (1, value)]):
        with pytest.raises(SchemaMismatch, match=rf"row {len(rows) - 1}: column 'c1': .*{text}.*the row is \(") as caught:
            read([rows], source=source, tensors=True, spec=spec)
        assert len(str(caught.value)) < 600


def test_sparse_matrices_of_scipy() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(SchemaMismatch, match=r"values of type scipy.sparse.*csr_matrix, .*; feed value.toarray\(\)"):
        read([[(0, sparse.csr_matrix((2, 2)))]], tensors=True)


@pytest.mark.parametrize(("value", "called"), [("x", "one str"), ([1, 2], "a list of int"), (b"x", "one bytes")])
def test_values_that_are_tensors_elsewhere_are_named(value: object, called: str) -> None:
    text = rf"row 1: column 'c1': expected int64, found {called}; feed values of one kind, declare the column 'object'.*next_batch"
    with pytest.raises(SchemaMismatch, match=text):
        read([[(0, 1), (1, value)]], tensors=True)
