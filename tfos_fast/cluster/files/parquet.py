"""Parquet files as the source of a feed: what to read. Footers are read in the driver, values in Spark's tasks."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfos_fast.channel.arrow.spark_types import KEY
from tfos_fast.cluster.files.filters import check_filters, names, to_expression
from tfos_fast.cluster.files.hive import Inference, keys_of, typed
from tfos_fast.cluster.files.listing import Files, RowGroup
from tfos_fast.cluster.files.splits import count_of, group
from tfos_fast.errors import MissingDependency, SourceError
from tfos_fast.values.spelling import meant, quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

    from tfos_fast.cluster.files.split_reader import SplitReader

_WILD = re.compile(r"[*?\[]")
_OF_MAIN = re.compile(r'"pyClass": "__main__\.(\w+)"')


@dataclass(frozen=True)
class Parquet:
    """Parquet files that a cluster can feed; made by :func:`parquet`. Nothing is read before the feed begins."""

    paths: tuple[str, ...]
    columns: tuple[str, ...] | None = None
    filters: Any = None
    filesystem: Any = None
    splits: int | None = None

    def plan(self, cores: int, settings: Mapping[str, str] | None = None) -> tuple[list[list[RowGroup]], SplitReader]:
        """Find the files, read their footers, and cut them into splits.

        Parameters
        ----------
        cores : int
            Tasks that Spark runs at a time.
        settings : mapping, optional
            Of the Spark session: two say how values of directory names are read, see
            :class:`tfos_fast.cluster.files.hive.Inference`.

        Returns
        -------
        (list of list of RowGroup, SplitReader)
            The splits, and what reads one inside a task.

        Raises
        ------
        SourceError
            There are no files, one cannot be read, it has no such columns, or a column has types that no type holds.
        """
        from tfos_fast.cluster.files.split_reader import SplitReader

        _pyarrow()
        filesystem, found = self._located()
        what = f"parquet({', '.join(self.paths)})"
        if not found:
            raise SourceError(f"{what} has no files (names that begin with '.' or '_' do not count)")
        kinds, keys = typed([keys_of(path, base) for path, base in found], Inference.of(settings or {}))
        files = Files(filesystem, [path for path, _ in found], kinds, keys)
        files.leave_out(self.filters)
        table = files.table(what)
        columns = self._chosen(table.names)
        expression = to_expression(self.filters, table.schema)
        filtered = [name for name in table.names if names(expression, name, table.schema)]
        needed = columns + [name for name in filtered if name not in columns]
        table.check(needed)
        pieces = files.pieces(table, expression, filtered)
        sizes = [piece.size for piece in pieces]
        splits = [[pieces[i] for i in part] for part in group(sizes, self.splits or count_of(sizes, cores))]
        schema = table.part(needed)
        return splits, SplitReader(filesystem, schema, columns, expression, table.exact, _users(schema))

    def _chosen(self, there: list[str]) -> list[str]:
        """The columns to feed."""
        if self.columns is None:
            return there
        missing = [name for name in self.columns if name not in there]
        if missing:
            nested = [name for name in missing if name.partition(".")[0] in there]
            hint = "; name whole columns, not fields of structs" if nested else meant(missing, there)
            raise SourceError(f"parquet({', '.join(self.paths)}) has no column {quoted(missing)}; it has {quoted(there)}{hint}")
        return list(self.columns)

    def _located(self) -> tuple[FileSystem, list[tuple[str, str]]]:
        """The file system, and the files in it, each with the directory behind which names of directories count."""
        _pyarrow()
        from pyarrow import fs

        found: list[tuple[str, str]] = []
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

    Values are those of ``spark.read.parquet``. Files may differ in their columns. A column (or a struct's field) that a file lacks
    is null there. A column of several types gets one that holds all values as they are (float32, float64: float64). Where no type
    does (text and numbers), an error names the column and two files.

    Parameters
    ----------
    path : str, path, or a list of these
        A file, a directory (read with its subdirectories; ``name=value`` in their names become columns), or a pattern with ``*``,
        ``?``, ``[...]`` inside a name and ``**`` for any number of directories. URIs (``hdfs://``, ``s3://``, ``gs://``,
        ``file://``) choose the file system; executors must be able to read it, too.
    columns : list of str, optional
        Top-level columns to feed, in this order. The others are not read.
    filters : pyarrow.compute.Expression, or lists of (column, operator, value), optional
        As in ``pyarrow.parquet.read_table``: conditions of a list hold together, and of lists of conditions one has to hold. Files
        and row groups that cannot match are not read. In conditions a date or a time may be text, and a datetime without a time
        zone is local time where the column has moments.
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
        ``splits`` is not positive, a column is named twice, or ``filters`` is no filter.
    """
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    if not paths:
        raise SourceError("parquet() was given an empty list of files")
    if splits is not None and splits < 1:
        raise ValueError(f"splits must be 1 or more, not {splits}")
    if isinstance(columns, str):
        raise ValueError(f"columns is a list of names: [{columns!r}]")
    chosen = None if columns is None else tuple(columns)
    if chosen is not None and not all(isinstance(name, str) for name in chosen):
        raise ValueError(f"columns is a list of names (text): {list(chosen)!r:.200}")
    if chosen is not None and (len(set(chosen)) < len(chosen) or not chosen):
        raise ValueError(f"columns must name one column or more, each once: {list(chosen)}")
    check_filters(filters)
    return Parquet(tuple(os.fspath(p) for p in paths), chosen, filters, filesystem, splits)


def _users(schema: pa.Schema) -> tuple[Any, ...]:
    """The types of users that the columns have and the driver's ``__main__`` defines."""
    names = _OF_MAIN.findall((schema.metadata or {}).get(KEY, b"").decode())
    found = [getattr(sys.modules["__main__"], name, None) for name in dict.fromkeys(names)]
    return tuple(kind() for kind in found if isinstance(kind, type) and hasattr(kind, "deserialize"))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import dataset
    except ImportError as error:
        raise MissingDependency("Parquet files need pyarrow: pip install pyarrow") from error
    return pyarrow, dataset


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


def _matching(system: FileSystem, path: str, *, alone: bool) -> list[tuple[str, str]]:
    """The files that a path or pattern stands for, sorted, each with the directory behind which names of directories count."""
    from pyarrow import fs

    kind = system.get_file_info(path).type
    if kind is fs.FileType.File:
        return [(path, "")]
    if kind is fs.FileType.Directory:
        return [(file, path if alone else "") for file in sorted(_files(system, path))]
    if not _WILD.search(path):
        raise SourceError(f"no file or directory {path} is there; paths are looked up in the driver")
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
    return [(file, "") for file in sorted(found)]


def _files(system: FileSystem, directory: str) -> Iterator[str]:
    from pyarrow import fs

    for info in system.get_file_info(fs.FileSelector(directory, recursive=True)):
        if info.type is fs.FileType.File and not _hidden(info.path[len(directory) :]):
            yield info.path


def _hidden(path: str) -> bool:
    """Whether this is no data, as pyarrow and Spark have it (``_SUCCESS``, ``_temporary/``, ``.x.crc``)."""
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in path.split("/"))


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
