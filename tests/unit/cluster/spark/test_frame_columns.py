"""What tasks know of a DataFrame's columns: types that a program defines in its own file come along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("pyspark")
pytest.importorskip("cloudpickle")

DRIVER = """
import sys
from types import SimpleNamespace
import cloudpickle
from pyspark.sql import types
from tfos_fast.cluster.spark.frame_columns import columns_of, fields_of

class Point:
    def __init__(self, *xy):
        self.xy = xy

class PointType(types.UserDefinedType):
    @classmethod
    def sqlType(cls):
        return types.ArrayType(types.DoubleType(), False)
    @classmethod
    def module(cls):
        return "__main__"
    def deserialize(self, datum):
        return Point(*datum)

inner = types.StructType([types.StructField("q", PointType())])
fields = [types.StructField("p", PointType()), types.StructField("l", types.ArrayType(inner))]
frame = SimpleNamespace(schema=types.StructType(fields))
columns = columns_of(frame, fields_of(frame))
assert len(columns.users) == 2
sys.stdout.buffer.write(cloudpickle.dumps(columns))
"""

TASK = """
import pickle, sys
import pyarrow as pa
from tests.support.arrow_types import values
columns = pickle.loads(sys.stdin.buffer.read())
point = pa.array([[1.0, 2.0]])
other = pa.array([[{"q": [3.0, 4.0]}]])
batch = columns.given(pa.record_batch([point, other], names=["c0", "c1"]))
assert batch.schema.names == ["p", "l"]
from tests.support.arrow_batches import feed, rows_of
(row,) = rows_of(feed([batch], exact=True))
print(type(row.p).__name__, row.p.xy, row.l[0].q.xy)
"""


def test_types_of_users_defined_in_the_program_itself_reach_the_tasks(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(DRIVER)
    root = Path(__file__).parents[4]
    sent = subprocess.run([sys.executable, program], capture_output=True, check=True, timeout=60, cwd=root)
    got = subprocess.run([sys.executable, "-c", TASK], input=sent.stdout, capture_output=True, timeout=60, cwd=root)
    assert got.stdout == b"Point (1.0, 2.0) (3.0, 4.0)\n", got.stderr.decode()
