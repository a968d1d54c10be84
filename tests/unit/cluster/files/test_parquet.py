"""Parquet files: which are found, what is read of them and in which pieces, and what is said when it cannot be."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

import tfos_fast
from tests.support.parquet_files import SLOT, ids, read, table
from tfos_fast.channel.arrow.pack import from_arrow
from tfos_fast.cluster.driver.source import check_data
from tfos_fast.cluster.files.parquet import parquet
from tfos_fast.errors import SourceError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows 0 to 999 in three files of two directories, ten row groups of 100."""
    root = tmp_path_factory.mktemp("data")
    for day, name, start, rows in ((1, "a", 0, 300), (1, "b", 300, 300), (2, "a", 600, 400)):
        (root / f"day={day}").mkdir(exist_ok=True)
        pq.write_table(table(start, rows), root / f"day={day}" / f"{name}.parquet", row_group_size=100)
    (root / "_SUCCESS").touch()
    (root / "day=1" / "_temporary").mkdir()
    (root / "day=1" / "_temporary" / "x.parquet").write_text("nothing")
    return root


def test_a_directory_with_partitions(folder):
    splits = read(parquet(folder))
    assert ids(splits) == list(range(1000))
    rows = pa.Table.from_batches([batch for split in splits for batch in split]).to_pylist()
    assert rows[650] == {"id": 650, "x": [650.0] * 4, "name": "n650", "day": 2}
    assert {row["day"] for row in rows[:600]} == {1}


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("{}/day=1", 600), ("{}/day=*", 1000), ("{}/*/a.parquet", 700), ("{}/**/[a-b].parquet", 1000), ("{}/**", 1000),
        ("file://{}/*/b.parquet", 300), ("file:{}/day=2", 400), ("{}/day=2/a.parquet", 400),
        (["{}/day=1/b.parquet", "{}/day=2"], 700),
    ],
)  # fmt: skip
def test_paths(folder, path, count):
    path = path.format(folder) if isinstance(path, str) else [each.format(folder) for each in path]
    assert len(ids(read(parquet(path)))) == count


def test_columns_are_pruned_and_ordered(folder):
    splits = read(parquet(folder, columns=["day", "id"]))
    assert {tuple(batch.schema.names) for split in splits for batch in split} == {("day", "id")}
    only_directories = read(parquet(folder, columns=["day"]))
    assert sum(batch.num_rows for split in only_directories for batch in split) == 1000


@pytest.mark.parametrize("filters", [[("id", ">=", 250), ("day", "=", 1)], (pc.field("id") >= 250) & (pc.field("day") == 1)])
def test_filters_leave_out_files_row_groups_and_rows(folder, filters):
    description = parquet(folder, columns=["id"], filters=filters)
    splits, reader = description.plan(1)
    pieces = [(piece.path.rpartition("/")[2], piece.row_group) for split in splits for piece in split]
    assert pieces == [("a.parquet", 2), ("b.parquet", 0), ("b.parquet", 1), ("b.parquet", 2)]
    assert reader.schema.names == ["id", "day"]  # the filter's columns are read, the others are not
    result = read(description)
    assert ids(result) == list(range(250, 600))
    assert result[0][0].schema.names == ["id"]


@pytest.mark.parametrize("filters", [None, pc.equal(pc.bit_wise_and(pc.field("id"), 1), 0)])
@pytest.mark.parametrize("skip", [0, 1, 99, 100, 101, 250, 5000])
def test_rows_delivered_before_are_skipped(folder, filters, skip):
    description = parquet(folder, columns=["id"], filters=filters, splits=1)
    assert ids(read(description, skip)) == ids(read(description))[skip:]


def test_number_of_splits(folder):
    assert [len(parquet(folder, splits=n).plan(1)[0]) for n in (1, 2, 5, 10, 99)] == [1, 2, 5, 10, 10]
    assert len(parquet(folder).plan(2)[0]) == 8
    assert parquet(folder, filters=pc.field("id") < 0).plan(1)[0] == []


def test_batches_follow_the_slot(tmp_path):
    wide = table(0, 2000, width=784)
    pq.write_table(wide, tmp_path / "wide.parquet")
    splits, reader = parquet(tmp_path / "wide.parquet").plan(1)
    sizes = [batch.nbytes for batch in reader.batches(splits[0], SLOT)]
    assert max(sizes) < 1.1 * SLOT
    assert sorted(sizes)[1] > SLOT / 2
    assert max(batch.nbytes for batch in reader.batches(splits[0], 2**30)) < 1.1 * 2**20
    same_text = pa.table({"text": ["x" * 10_000] * 20_000})  # a few bytes in the file
    pq.write_table(same_text, tmp_path / "text.parquet", row_group_size=10_000)
    splits, reader = parquet(tmp_path / "text.parquet", splits=1).plan(1)
    assert [batch.nbytes for batch in reader.batches(splits[0], SLOT)][-1] < 2 * SLOT  # learned from the first row group


def test_files_that_differ(tmp_path):
    pq.write_table(pa.table({"id": pa.array([1, 2], pa.int64()), "x": [0.5, 1.5]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"y": ["no"], "id": pa.array([3], pa.int32())}), tmp_path / "b.parquet")
    rows = [row for split in read(parquet(tmp_path)) for batch in split for row in batch.to_pylist()]
    assert rows == [{"id": 1, "x": 0.5, "y": None}, {"id": 2, "x": 1.5, "y": None}, {"id": 3, "x": None, "y": "no"}]


def test_a_filesystem_of_ones_own(folder):
    system = fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())
    assert ids(read(parquet("day=2", filesystem=system))) == list(range(600, 1000))
    assert ids(read(parquet("*/b.parquet", filesystem=system))) == list(range(300, 600))


def test_what_cannot_be_read_is_named(folder, tmp_path):
    def fails(message, path, **arguments):
        with pytest.raises(SourceError, match=message):
            parquet(path, **arguments).plan(1)

    fails("no file or directory .*nowhere is there", tmp_path / "nowhere")
    fails(r"no file matches .*\*\.pq", f"{tmp_path}/*.pq")
    fails("has no files", tmp_path)
    fails(r"has no column 'q'; it has 'id', 'x', 'name', 'day'$", folder, columns=["id", "q"])
    fails(r"has no column 'nmae'; it has .*; did you mean 'name'\?$", folder, columns=["nmae"])
    unfit = r"^the filter \(q == 1\) does not fit the columns \(id: int64, .*\): there is no column 'q'$"
    fails(unfit, folder, filters=[("q", "=", 1)])
    fails(r": there is no column 'dya'; did you mean 'day'\?$", folder, filters=[[("dya", "=", 1)]])
    fails("nope://x.*Unrecognized filesystem", "nope://x/y")
    (tmp_path / "text.parquet").write_text("no Parquet")
    fails(r"text\.parquet", tmp_path)
    pq.write_table(table(0, 10), tmp_path / "good.parquet")
    fails(r"the footer of .*text\.parquet cannot be read", tmp_path)
    with pytest.raises(SourceError, match="empty list"):
        parquet([])
    for wrong in ({"splits": 0}, {"columns": "id"}, {"columns": ["id", "id"]}, {"columns": []}):
        with pytest.raises(ValueError, match=r"splits must|columns"):
            parquet(folder, **wrong)


def test_a_file_that_changed_or_broke_after_its_footer_was_read(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(table(0, 5000), file)
    splits, reader = parquet(file).plan(1)
    whole = file.read_bytes()
    pq.write_table(table(0, 4000), file)
    with pytest.raises(SourceError, match=r"a\.parquet has changed"):
        list(reader.batches(splits[0], SLOT))
    other = table(0, 5000)
    pq.write_table(other.set_column(0, "id", [np.arange(5000) + 0.5]), file)
    with pytest.raises(SourceError, match=r"a\.parquet has changed .* its column 'id' is double, which int64 does not hold"):
        list(reader.batches(splits[0], SLOT))
    pq.write_table(other.set_column(0, "id", [np.arange(5000, dtype=np.int32)]), file)
    assert sum(batch.num_rows for batch in reader.batches(splits[0], SLOT)) == 5000
    file.write_bytes(whole[:100] + bytes(2000) + whole[2100:])
    with pytest.raises(SourceError, match=r"a\.parquet is damaged: .*; write it anew, or leave it out") as damaged:
        list(reader.batches(splits[0], SLOT))
    assert not isinstance(damaged.value.__cause__, OSError)  # no other try can help
    file.unlink()
    with pytest.raises(SourceError, match=r"a\.parquet cannot be read: .*No such file") as gone:
        list(reader.batches(splits[0], SLOT))
    assert isinstance(gone.value.__cause__, FileNotFoundError)


def test_names_of_columns_that_are_no_text(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a_column": [1]}), file, store_schema=False)
    splits, reader = parquet(file).plan(1)
    file.write_bytes(file.read_bytes().replace(b"a_column", b"a_c\xc1lumn"))
    with pytest.raises(SourceError, match=r"a\.parquet cannot be read: .*utf-8"):
        list(reader.batches(splits[0], SLOT))
    with pytest.raises(SourceError, match=r"the footer of .*a\.parquet cannot be read: .*utf-8"):
        parquet(file).plan(1)


def test_files_are_fed_and_not_inferred(folder):
    check_data(tfos_fast.parquet(folder), "feed")
    with pytest.raises(TypeError, match=r"infer\(\) takes an RDD or a DataFrame of Spark, not files; spark.read.parquet"):
        check_data(tfos_fast.parquet(folder), "infer")


def test_tensors_keep_their_shape(tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    pq.write_table(pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(values)}), tmp_path / "tensors.parquet")
    ((batch,),) = read(parquet(tmp_path / "tensors.parquet"))
    assert from_arrow(batch.schema, batch, exact=False).columns[0].shape == (2, 3)
