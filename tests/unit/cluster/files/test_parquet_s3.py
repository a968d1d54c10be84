"""Parquet files in a bucket: a server that speaks S3 on loopback."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from tests.support.parquet_files import ids, read, table
from tfos_fast.cluster.files.parquet import parquet
from tfos_fast.errors import SourceError

server = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def endpoint():
    """Host and port of the server."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch):
    """The file system, with rows 0 to 599 in two files of a bucket; its credentials and address are in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{endpoint}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    keys = {"access_key": "key", "secret_key": "secret", "region": "us-east-1"}
    system = fs.S3FileSystem(endpoint_override=endpoint, scheme="http", allow_bucket_creation=True, **keys)
    system.create_dir("rows")
    for day in (1, 2):
        with system.open_output_stream(f"rows/day={day}/a.parquet") as file:
            pq.write_table(table(300 * day - 300, 300), file, row_group_size=100)
    return system


def test_files_of_a_bucket(bucket):
    found = read(parquet("rows", filesystem=bucket))
    assert ids(found) == list(range(600))
    assert {row["day"] for split in found for batch in split for row in batch.to_pylist()} == {1, 2}
    assert ids(read(parquet("rows/day=2/*.parquet", columns=["id"], filesystem=bucket))) == list(range(300, 600))


@pytest.mark.skipif(int(pa.__version__.split(".")[0]) < 18, reason="older ones do not read AWS_ENDPOINT_URL")
@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_addresses_as_spark_writes_them(bucket, scheme):
    assert ids(read(parquet(f"{scheme}://rows/day=*/a.parquet"))) == list(range(600))
    assert ids(read(parquet(f"{scheme}://rows", filters=[("id", "<", 150)]), skip=0)) == list(range(150))
    with pytest.raises(SourceError, match="no file or directory rows/none is there"):
        parquet(f"{scheme}://rows/none").plan(1)
