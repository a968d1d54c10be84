"""Reading a split of Parquet files inside a Spark task: row groups in order, a bounded number of rows at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfos_fast.channel.arrow.spark_types import know, nodes
from tfos_fast.cluster.files.conform import conform, refuse_old
from tfos_fast.cluster.files.filters import unfit
from tfos_fast.cluster.files.footers import FileColumns, describe
from tfos_fast.cluster.files.listing import INT96_UNIT
from tfos_fast.cluster.files.unify import Held, holds, pairs
from tfos_fast.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Expression
    from pyarrow.fs import FileSystem
    from pyarrow.parquet import ParquetFile

    from tfos_fast.cluster.files.listing import RowGroup

BATCH_BYTES = 2**20  # of values decoded at a time: they are still in the cache when they are copied
_MOST_ROWS = 65536
_MOST_TEXTS = 8192  # with text or bytes, which may be larger in memory than in the file
_READ_BUFFER = 2**20
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8}


@dataclass(frozen=True)
class _Opened:
    """A file that is being read.

    Attributes
    ----------
    file : ParquetFile
    about : FileColumns
    there : dict of str to str
        The feed's columns which it has, and what it calls them.
    told : dict of str to str or dict
        What Spark calls their types, where Arrow's types do not say it all.
    """

    file: ParquetFile
    about: FileColumns
    there: dict[str, str]
    told: dict[str, Any]


@dataclass(frozen=True)
class SplitReader:
    """Reads the splits of one feed. The same split gives the same rows in the same order each time.

    Parameters
    ----------
    filesystem : pyarrow.fs.FileSystem
    schema : pyarrow.Schema
        What is to be read: the columns to feed and those which the filter needs. Columns of directory names are among them. Its
        metadata have what Spark says of columns beside their types (``channel/arrow/spark_types.py``).
    columns : list of str
        Columns to feed.
    filter : pyarrow.compute.Expression, optional
        Rows to feed.
    exact : bool
        Names of columns that differ in upper and lower case only are different columns.
    users : tuple of UserDefinedType
        Those of the columns that are defined in the driver's ``__main__``: no task can import them.
    """

    filesystem: FileSystem
    schema: pa.Schema
    columns: list[str]
    filter: Expression | None
    exact: bool = False
    users: tuple[Any, ...] = ()

    def batches(self, split: Sequence[RowGroup], slot_bytes: int, skip: int = 0) -> Iterator[pa.RecordBatch]:
        """The rows of a split.

        Parameters
        ----------
        split : sequence of RowGroup
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
            Names the file that cannot be read. Where another try may read it, an ``OSError`` is the cause.
        """
        import pyarrow as pa

        know(self.users)
        wanted = min(slot_bytes, BATCH_BYTES)
        measured = 0.0  # bytes of a row in memory, as the batches so far had it
        opened: _Opened | None = None
        path = ""
        try:
            for piece in split:
                if self.filter is None and skip >= piece.rows:
                    skip -= piece.rows
                    continue
                if opened is None or piece.path != path:
                    if opened is not None:
                        opened.file.close(force=True)
                    path = piece.path
                    opened = self._open(path, piece.keys)
                expected, most = self._row_bytes(opened, piece)
                rows = max(1, min(most, int(wanted / max(expected, measured, 1.0))))
                for batch in self._read(opened, piece, rows):
                    dropped = min(skip, batch.num_rows)
                    skip -= dropped
                    if dropped < batch.num_rows:
                        measured = batch.nbytes / batch.num_rows
                        yield batch.slice(dropped) if dropped else batch
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and self._is_damage(error):
                why = " ".join(str(error).split()).rstrip(".")
                raise SourceError(f"{path} is damaged: {why}; write it anew, or leave it out") from None
            raise SourceError(f"{path} cannot be read: {error}") from error
        finally:
            if opened is not None:
                opened.file.close(force=True)

    def _is_damage(self, error: OSError) -> bool:
        """Whether this is what pyarrow says of a file's content: an error of the operating system has a number.

        Other file systems than the local one have errors of the network without a number.
        """
        from pyarrow import fs

        return isinstance(self.filesystem, fs.LocalFileSystem) and error.errno is None

    def _open(self, path: str, keys: Collection[str]) -> _Opened:
        from pyarrow import fs, parquet

        source = self.filesystem.open_input_file(path)
        # Over a network few large reads are best: the row group's column chunks are fetched together.
        local = isinstance(self.filesystem, fs.LocalFileSystem)
        how = {"buffer_size": _READ_BUFFER} if local else {"pre_buffer": True}
        file = parquet.ParquetFile(source, coerce_int96_timestamp_unit=INT96_UNIT, **how)
        about = describe(path, file.metadata, file.schema_arrow)
        there = pairs(self.schema.names, list(about.columns), exact=self.exact)
        told = dict(zip(self.schema.names, nodes(self.schema), strict=False))
        for name, kind in zip(self.schema.names, self.schema.types, strict=True):
            if name in there and name not in keys and not holds(Held(kind, told.get(name)), about.columns[there[name]]):
                raise SourceError(
                    f"{path} has changed since its footer was read in the driver: its column {there[name]!r} is "
                    f"{about.columns[there[name]].kind}, which {kind} does not hold"
                )
        return _Opened(file, about, there, told)

    def _row_bytes(self, opened: _Opened, piece: RowGroup) -> tuple[float, int]:
        """Bytes that a row of this row group has in memory, and the most rows that a batch should have."""
        metadata = opened.file.metadata
        if piece.row_group >= metadata.num_row_groups or metadata.row_group(piece.row_group).num_rows != piece.rows:
            raise SourceError(f"{piece.path} has changed since its footer was read in the driver")
        group = metadata.row_group(piece.row_group)
        wanted, size, most = set(opened.there.values()), 0.0, _MOST_ROWS
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

    def _read(self, opened: _Opened, piece: RowGroup, rows: int) -> Iterator[pa.RecordBatch]:
        names = [opened.there[name] for name in self.schema.names if name in opened.there and name not in piece.keys]
        # One task runs on each of the executor's cores: further threads would only take them from each other.
        for batch in opened.file.iter_batches(rows, [piece.row_group], names, use_threads=False):
            batch = self._conform(batch, opened, piece)
            if self.filter is None:
                yield batch
            else:
                yield from self._filtered(batch, piece.path)

    def _conform(self, batch: pa.RecordBatch, opened: _Opened, piece: RowGroup) -> pa.RecordBatch:
        """The batch with the columns of the data set: those of directory names filled in, missing ones null, types as declared."""
        import pyarrow as pa

        columns = []
        for name, kind in zip(self.schema.names, self.schema.types, strict=True):
            if name in piece.keys:
                columns.append(pa.repeat(pa.scalar(piece.keys[name], kind), batch.num_rows))
                continue
            there = opened.there.get(name)
            if there is None:
                columns.append(pa.nulls(batch.num_rows, kind))
                continue
            column = batch.column(there)
            if there in opened.about.old:
                refuse_old(column, opened.about.old[there], there, piece.path, opened.about.writer)
            if column.type != kind:
                try:
                    column = conform(column, kind, opened.told.get(name))
                except pa.ArrowException as error:
                    raise SourceError(f"{piece.path}: column {there!r} of {column.type} does not become {kind}: {error}") from error
            columns.append(column)
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _filtered(self, batch: pa.RecordBatch, path: str) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        from pyarrow import dataset

        rows = dataset.dataset(pa.Table.from_batches([batch])).scanner(columns=self.columns, filter=self.filter, use_threads=False)
        try:
            batches = list(rows.to_batches())
        except pa.ArrowException as error:
            raise unfit(self.filter, path, error) from error
        for some in batches:
            if some.num_rows:
                yield some.replace_schema_metadata(batch.schema.metadata)
