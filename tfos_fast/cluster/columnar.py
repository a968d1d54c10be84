"""Parquet files as the source of a feed: what to read. Footers are read in the driver, values in Spark's tasks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfos_fast.cluster.splits import count_of, group
from tfos_fast.errors import MissingDependency, SourceError

if TYPE_CHECKING:
    from pyarrow.dataset import Expression
    from pyarrow.fs import FileSystem

    from tfos_fast.cluster.splitreader import SplitReader

_FOOTERS_AT_ONCE = 16
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Piece:
    """A row group of a file.

    Attributes
    ----------
    path : str
        In the file system of the feed.
    row_group : int
    rows : int
    size : int
        Bytes as the file encodes it, uncompressed, all columns.
    keys : dict
        Values of the columns that the file's directories name (``day=3``).
    """

    path: str
    row_group: int
    rows: int
    size: int
    keys: dict[str, Any]


@dataclass(frozen=True)
class Parquet:
    """Parquet files that a cluster can feed; made by :func:`parquet`. Nothing is read before the feed begins."""

    paths: tuple[str, ...]
    columns: tuple[str, ...] | None = None
    filters: Any = None
    filesystem: Any = None
    splits: int | None = None

    def plan(self, cores: int) -> tuple[list[list[Piece]], SplitReader]:
        """Find the files, read their footers, and cut them into splits.

        Parameters
        ----------
        cores : int
            Tasks that Spark runs at a time.

        Returns
        -------
        (list of list of Piece, SplitReader)
            The splits, and what reads one inside a task.

        Raises
        ------
        SourceError
            There are no files, one cannot be read, or it has no such columns.
        """
        from tfos_fast.cluster.splitreader import SplitReader

        pa, ds = _pyarrow()
        filesystem, paths = self._located()
        what = ", ".join(self.paths)
        try:
            single = paths[0] if len(paths) == 1 else paths
            dataset = ds.dataset(single, filesystem=filesystem, format="parquet", partitioning="hive")
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"parquet({what}) cannot be read: {error}") from error
        if not dataset.files:
            raise SourceError(f"parquet({what}) has no files (names that begin with '.' or '_' do not count)")
        columns = self._chosen(dataset.schema)
        expression = self._expression(dataset.schema)
        others = [name for name in dataset.schema.names if name not in columns]
        needed = columns + [name for name in others if _names(expression, name, dataset.schema)]
        fragments = list(dataset.get_fragments(expression))

        def pieces_of(fragment: Any) -> list[Piece]:
            try:
                keys = ds.get_partition_keys(fragment.partition_expression)
                groups = [info for part in fragment.split_by_row_group(expression, dataset.schema) for info in part.row_groups]
            except (OSError, pa.ArrowException) as error:
                raise SourceError(f"the footer of {fragment.path} cannot be read: {error}") from error
            return [Piece(fragment.path, info.id, info.num_rows, info.total_byte_size, keys) for info in groups if info.num_rows]

        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            pieces = [piece for some in pool.map(pieces_of, fragments) for piece in some]
        sizes = [piece.size for piece in pieces]
        splits = [[pieces[i] for i in part] for part in group(sizes, self.splits or count_of(sizes, cores))]
        schema = pa.schema([dataset.schema.field(name) for name in needed], metadata=dataset.schema.metadata)
        return splits, SplitReader(filesystem, schema, columns, expression)

    def _chosen(self, schema: Any) -> list[str]:
        """The columns to feed."""
        if self.columns is None:
            return list(schema.names)
        missing = [name for name in self.columns if name not in schema.names]
        if missing:
            raise SourceError(f"parquet({', '.join(self.paths)}) has no columns {missing}; it has {schema.names}")
        return list(self.columns)

    def _expression(self, schema: Any) -> Expression | None:
        if self.filters is None:
            return None
        pa, ds = _pyarrow()
        from pyarrow.parquet import filters_to_expression

        expression = self.filters if isinstance(self.filters, ds.Expression) else filters_to_expression(self.filters)
        try:
            _apply(expression, schema)
        except pa.ArrowException as error:
            raise SourceError(f"the filter {expression} does not fit the columns {schema.names}: {error}") from error
        return expression

    def _located(self) -> tuple[FileSystem, list[str]]:
        """The file system, and paths in it without wildcards."""
        _pyarrow()
        from pyarrow import fs

        found: list[str] = []
        system = self.filesystem
        if system is not None and not isinstance(system, fs.FileSystem):
            system = fs.PyFileSystem(fs.FSSpecHandler(system))
        given = system is not None
        for path in self.paths:
            try:
                where, inside = (system, path) if given else _resolve(path)
                if system is not None and not system.equals(where):
                    raise SourceError(f"the paths of one feed are on one file system; {path} is not on that of {self.paths[0]}")
                system = where
                found += _matching(system, inside, alone=len(self.paths) == 1)
            except (OSError, ValueError) as error:
                if isinstance(error, SourceError):
                    raise
                raise SourceError(f"{path} cannot be looked up: {error}") from error
        if not found:
            raise SourceError(f"parquet({', '.join(self.paths)}): no files are there")
        assert system is not None
        return system, found


def parquet(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    columns: Sequence[str] | None = None,
    filters: Any = None,
    *,
    filesystem: Any = None,
    splits: int | None = None,
) -> Parquet:
    """Parquet files for :meth:`Cluster.feed`: Spark schedules, pyarrow reads, the JVM touches no value.

    Every Spark task reads one *split*, some neighbouring row groups, in order, and copies their columns into shared memory. So a
    file that was written as a single row group is read by one task. Of a list column of equal lengths a value is copied once
    after pyarrow has decoded it. The memory of a task is bounded by some megabytes of values and one row group's column chunks
    as they are stored (of local files only a read buffer of them).

    The files must not change while they are fed: a task that is tried again skips the rows that were delivered before.

    Parameters
    ----------
    path : str, path, or a list of these
        A file, a directory (read with its subdirectories; ``name=value`` in their names become columns), or a pattern with ``*``,
        ``?``, ``[...]`` inside a name and ``**`` for any number of directories. URIs (``hdfs://``, ``s3://``, ``gs://``, ``file://``)
        choose the file system; executors must be able to read it, too.
    columns : list of str, optional
        Top-level columns to feed, in this order. The others are not read.
    filters : pyarrow.compute.Expression, or lists of (column, operator, value), optional
        As in ``pyarrow.parquet.read_table``. Files and row groups that cannot match are not read.
    filesystem : pyarrow.fs.FileSystem or fsspec file system, optional
        Pickled into the tasks; paths are then paths inside it.
    splits : int, optional
        About how many splits (and so Spark tasks) to make; default four for each core that Spark has, and more when they would
        be larger than 128 MiB. A row group is never cut.

    Returns
    -------
    Parquet
        A description. Footers are read when it is fed.

    Raises
    ------
    ValueError
        ``splits`` is not positive, or a column is named twice.
    """
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    if not paths:
        raise SourceError("parquet() was given an empty list of files")
    if splits is not None and splits < 1:
        raise ValueError(f"splits must be 1 or more, not {splits}")
    if isinstance(columns, str):
        raise ValueError(f"columns is a list of names: [{columns!r}]")
    if columns is not None and (len(set(columns)) < len(columns) or not columns):
        raise ValueError(f"columns must name one column or more, each once: {list(columns)}")
    names = None if columns is None else tuple(columns)
    return Parquet(tuple(os.fspath(p) for p in paths), names, filters, filesystem, splits)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import dataset
    except ImportError as error:
        raise MissingDependency("Parquet files need pyarrow: pip install pyarrow") from error
    return pyarrow, dataset


def _apply(expression: Expression, schema: Any) -> None:
    """Raises ArrowException when the expression does not fit the columns."""
    _, ds = _pyarrow()
    ds.dataset(schema.empty_table()).scanner(columns=[], filter=expression).to_table()


def _names(expression: Expression | None, name: str, schema: Any) -> bool:
    """Whether the expression needs a column: pyarrow does not tell, but the expression does not fit a schema without it."""
    if expression is None:
        return False
    pa, _ = _pyarrow()
    try:
        _apply(expression, schema.remove(schema.get_field_index(name)))
    except pa.ArrowException:
        return True
    return False


def _resolve(path: str) -> tuple[FileSystem, str]:
    from pyarrow import fs

    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path):
        return fs.LocalFileSystem(), str(Path(path).absolute())
    scheme, _, rest = path.partition(":")
    # A wildcard is no part of a URI.
    wild = _WILD.search(rest)
    stop = rest.rfind("/", 0, wild.start()) if wild else len(rest)
    system, inside = fs.FileSystem.from_uri(("s3" if scheme in ("s3a", "s3n") else scheme) + ":" + rest[:stop])
    return system, inside + rest[stop:]


def _matching(system: FileSystem, path: str, *, alone: bool) -> list[str]:
    """The files that a path or pattern stands for, sorted; a directory that is ``alone`` stays what it is."""
    from pyarrow import fs

    kind = system.get_file_info(path).type
    if kind is fs.FileType.File or (kind is fs.FileType.Directory and alone):
        return [path]
    if kind is fs.FileType.Directory:
        return sorted(_files(system, path))
    if not _WILD.search(path):
        raise SourceError(f"{path} is not there")
    parts = path.split("/")
    first = next(i for i, part in enumerate(parts) if _WILD.search(part))
    base = "/".join(parts[:first]) or ("/" if path.startswith("/") else "")
    pattern = re.compile(pattern_of(parts[first:]))
    deep = first < len(parts) - 1 or "**" in path
    found: set[str] = set()
    for info in system.get_file_info(fs.FileSelector(base, allow_not_found=True, recursive=deep)):
        inside = info.path[len(base) :].lstrip("/")
        if _hidden(inside) or not pattern.fullmatch(inside):
            continue
        found.update(_files(system, info.path) if info.type is fs.FileType.Directory else [info.path])
    if not found:
        raise SourceError(f"no file matches {path}")
    return sorted(found)


def _files(system: FileSystem, directory: str) -> Iterator[str]:
    from pyarrow import fs

    for info in system.get_file_info(fs.FileSelector(directory, recursive=True)):
        if info.type is fs.FileType.File and not _hidden(info.path[len(directory) :]):
            yield info.path


def _hidden(path: str) -> bool:
    """Whether this is no data, as pyarrow and Spark have it (``_SUCCESS``, ``_temporary/``, ``.x.crc``)."""
    return any(part.startswith((".", "_")) for part in path.split("/"))


def pattern_of(parts: Sequence[str]) -> str:
    """The parts of a path pattern as a regular expression: ``**`` is any number of directories, and at the end any path."""
    text = ""
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if part == "**":
            text += ".*" if last else "(?:[^/]+/)*"
            continue
        for piece in re.split(r"(\*+|\?|\[!?\]?[^]]*\])", part):
            if piece.startswith("*"):
                text += "[^/]*"
            elif piece == "?":
                text += "[^/]"
            elif piece.startswith("[") and piece.endswith("]"):
                inside = re.sub(r"([\\\[\]^])", r"\\\1", piece[1:-1].removeprefix("!"))
                text += f"[^/{inside}]" if piece[1] == "!" else f"[{inside}]"
            else:
                text += re.escape(piece)
        text += "" if last else "/"
    return text
