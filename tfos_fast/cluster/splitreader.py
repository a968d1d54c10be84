"""Reading a split of Parquet files inside a Spark task: row groups in order, a bounded number of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfos_fast.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Expression
    from pyarrow.fs import FileSystem
    from pyarrow.parquet import ParquetFile

    from tfos_fast.cluster.columnar import Piece

BATCH_BYTES = 2**20  # of values decoded at a time: they are still in the cache when they are copied
_MOST_ROWS = 65536
_MOST_TEXTS = 8192  # with text or bytes, which may be larger in memory than in the file
_READ_BUFFER = 2**20
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8}


@dataclass(frozen=True)
class SplitReader:
    """Reads the splits of one feed. The same split gives the same rows in the same order each time.

    Parameters
    ----------
    filesystem : pyarrow.fs.FileSystem
    schema : pyarrow.Schema
        What is to be read: the columns to feed and those which the filter needs. Columns of directory names are among them.
    columns : list of str
        Columns to feed.
    filter : pyarrow.compute.Expression, optional
        Rows to feed.
    """

    filesystem: FileSystem
    schema: pa.Schema
    columns: list[str]
    filter: Expression | None

    def batches(self, split: Sequence[Piece], slot_bytes: int, skip: int = 0) -> Iterator[pa.RecordBatch]:
        """The rows of a split.

        Parameters
        ----------
        split : sequence of Piece
        slot_bytes : int
            A batch has about so many bytes, and 1 MiB at most.
        skip : int
            Rows to leave out at the beginning. Without a filter, row groups of these are not read.

        Yields
        ------
        pyarrow.RecordBatch
            None is empty.

        Raises
        ------
        SourceError
            Names the file that cannot be read.
        """
        import pyarrow as pa

        wanted = min(slot_bytes, BATCH_BYTES)
        measured = 0.0  # bytes of a row in memory, as the batches so far had it
        opened: ParquetFile | None = None
        path = ""
        try:
            for piece in split:
                if self.filter is None and skip >= piece.rows:
                    skip -= piece.rows
                    continue
                if opened is None or piece.path != path:
                    if opened is not None:
                        opened.close(force=True)
                    path = piece.path
                    opened = self._open(path)
                expected, most = self._row_bytes(opened, piece)
                rows = max(1, min(most, int(wanted / max(expected, measured, 1.0))))
                for batch in self._read(opened, piece, rows):
                    dropped = min(skip, batch.num_rows)
                    skip -= dropped
                    if dropped < batch.num_rows:
                        measured = batch.nbytes / batch.num_rows
                        batch = batch.replace_schema_metadata(self.schema.metadata)  # Spark's types of users, such as vectors
                        yield batch.slice(dropped) if dropped else batch
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{path} cannot be read: {error}") from error
        finally:
            if opened is not None:
                opened.close(force=True)

    def _open(self, path: str) -> ParquetFile:
        from pyarrow import fs, parquet

        source = self.filesystem.open_input_file(path)
        if isinstance(self.filesystem, fs.LocalFileSystem):
            return parquet.ParquetFile(source, buffer_size=_READ_BUFFER)
        # Over a network few large reads are best: the row group's column chunks are fetched together.
        return parquet.ParquetFile(source, pre_buffer=True)

    def _row_bytes(self, file: ParquetFile, piece: Piece) -> tuple[float, int]:
        """Bytes that a row of this row group has in memory, and the most rows that a batch should have."""
        if piece.row_group >= file.num_row_groups or file.metadata.row_group(piece.row_group).num_rows != piece.rows:
            raise SourceError(f"{piece.path} has changed since its footer was read in the driver")
        group = file.metadata.row_group(piece.row_group)
        wanted, size, most = set(self.schema.names), 0.0, _MOST_ROWS
        for i in range(group.num_columns):
            leaf = group.column(i)
            parts = leaf.path_in_schema.split(".")
            if not any(".".join(parts[:k]) in wanted for k in range(1, len(parts) + 1)):
                continue
            width = _WIDTHS.get(leaf.physical_type)
            if width is None:
                most = _MOST_TEXTS
                size += max(leaf.total_uncompressed_size, 16 * leaf.num_values)
            else:
                size += width * leaf.num_values
        return size / piece.rows, most

    def _read(self, file: ParquetFile, piece: Piece, rows: int) -> Iterator[pa.RecordBatch]:
        there = set(file.schema_arrow.names)
        names = [name for name in self.schema.names if name in there and name not in piece.keys]
        # One task runs on each of the executor's cores: further threads would only take them from each other.
        for batch in file.iter_batches(rows, [piece.row_group], names, use_threads=False):
            batch = self._conform(batch, piece)
            if self.filter is None:
                yield batch
            else:
                yield from self._filtered(batch)

    def _conform(self, batch: pa.RecordBatch, piece: Piece) -> pa.RecordBatch:
        """The batch with the columns of the data set: those of directory names filled in, missing ones null, types as declared."""
        import pyarrow as pa

        there = set(batch.schema.names)
        columns = []
        for name, kind in zip(self.schema.names, self.schema.types, strict=True):
            if name in piece.keys:
                columns.append(pa.repeat(pa.scalar(piece.keys[name], kind), batch.num_rows))
            elif name in there:
                column = batch.column(name)
                columns.append(column if column.type == kind else column.cast(kind))
            else:
                columns.append(pa.nulls(batch.num_rows, kind))
        return pa.RecordBatch.from_arrays(columns, self.schema.names)

    def _filtered(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        from pyarrow import dataset

        rows = dataset.dataset(pa.Table.from_batches([batch])).scanner(columns=self.columns, filter=self.filter, use_threads=False)
        for some in rows.to_batches():
            if some.num_rows:
                yield some
