"""The files of a feed in the driver: each footer is read once, and says which columns and row groups there are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tfos_fast.channel.arrow.spark_types import KEY
from tfos_fast.cluster.files.filters import misleads, to_expression, unfit
from tfos_fast.cluster.files.footers import TELLING, FileColumns, describe
from tfos_fast.cluster.files.unify import Differ, Held, by_case, pairs, unify
from tfos_fast.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Expression
    from pyarrow.fs import FileSystem

_FOOTERS_AT_ONCE = 16
INT96_UNIT = "us"  # nanoseconds overflow outside of 1677 to 2262


@dataclass(frozen=True)
class RowGroup:
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


@dataclass
class Table:
    """The columns of all files together.

    Attributes
    ----------
    columns : dict of str to Held
    exact : bool
        Names that differ in upper and lower case only are different columns: some file has two such.
    problems : dict of str to str
        Why a column cannot be fed.
    """

    columns: dict[str, Held]
    exact: bool = False
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of the columns, in the order of the first file that has them; those of directories alone come last."""
        return list(self.columns)

    @property
    def schema(self) -> pa.Schema:
        """Their types."""
        return self.part(self.names)

    def part(self, names: Sequence[str]) -> pa.Schema:
        """Return some columns as a schema. Its metadata have what Spark says of them beside their types."""
        import pyarrow as pa

        held = [self.columns[name] for name in names]
        schema = pa.schema([(name, each.kind) for name, each in zip(names, held, strict=True)])
        if all(each.node is None for each in held):
            return schema
        fields = [{"name": name, "type": each.node or "void"} for name, each in zip(names, held, strict=True)]
        return schema.with_metadata({KEY: json.dumps({"type": "struct", "fields": fields}).encode()})

    def check(self, names: Sequence[str]) -> None:
        """Refuse columns that cannot be fed.

        Raises
        ------
        SourceError
        """
        for name in names:
            if name in self.problems:
                raise SourceError(self.problems[name])


class Files:
    """Parquet files and what their directories say.

    Parameters
    ----------
    filesystem : pyarrow.fs.FileSystem
    paths : list of str
    kinds : dict of str to pyarrow.DataType
        Columns that directories name.
    keys : list of dict
        Their values, for each file.
    """

    def __init__(self, filesystem: FileSystem, paths: Sequence[str], kinds: dict[str, Any], keys: list[dict[str, Any]]) -> None:
        from pyarrow import dataset

        self._filesystem = filesystem
        self._kinds = kinds
        self._keys = dict(zip(paths, keys, strict=True))
        self._format = dataset.ParquetFileFormat(
            read_options=dataset.ParquetReadOptions(coerce_int96_timestamp_unit=INT96_UNIT),
        )
        self._fragments = [self._fragment(path) for path in paths]
        self._described: dict[str, FileColumns] = {}
        self._kinds_of_files: list[tuple[Any, Any, dict[bytes, bytes], FileColumns]] = []

    def leave_out(self, filters: Any) -> None:
        """Leave out files which, by their directories, have no row that the filter wants. Their footers are not read, but one."""
        if filters is None or not self._kinds:
            return
        first = self._describe(self._fragments[0])
        schema = _merged([first], self._kinds).schema
        try:
            expression = to_expression(filters, schema)
        except SourceError:
            return  # the first file does not have the columns, or other types: all footers together say what it means
        self._fragments = self._left(expression, schema) or self._fragments[:1]

    def table(self, what: str) -> Table:
        """Read all footers; the columns of all files.

        Raises
        ------
        SourceError
            A footer cannot be read; it names the file.
        """
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            found = list(pool.map(self._describe, self._fragments))
        table = _merged(found, self._kinds)
        if not table.columns:
            raise SourceError(f"{what}: the files have no columns")
        return table

    def pieces(self, table: Table, expression: Expression | None, filtered: Sequence[str]) -> list[RowGroup]:
        """Return the row groups that may have rows which the filter wants.

        Parameters
        ----------
        table : Table
        expression : Expression, optional
        filtered : sequence of str
            Columns which it needs.
        """
        import pyarrow as pa

        schema = table.schema
        sure = expression is None or not any(misleads(expression, schema.field(name), schema) for name in filtered)
        pieces = []
        for fragment in self._fragments if expression is None else self._left(expression, schema):
            found = self._describe(fragment)
            # The least and greatest values of a row group are those that the file has: of another type or calendar they mislead.
            plain = sure and all(
                name in self._kinds
                or not pairs([name], list(found.stored), exact=table.exact)
                or (found.stored.get(name) == schema.field(name).type and name not in found.old)
                for name in filtered
            )
            try:
                some = fragment.split_by_row_group(expression if plain else None, schema)
            except OSError as error:
                raise SourceError(f"the footer of {fragment.path} cannot be read: {error}") from error
            except pa.ArrowException as error:
                raise unfit(expression, fragment.path, error) from error
            groups = [info for part in some for info in part.row_groups]
            keys = self._keys[fragment.path]
            pieces += [
                RowGroup(fragment.path, info.id, info.num_rows, info.total_byte_size, keys) for info in groups if info.num_rows
            ]
        return pieces

    def _fragment(self, path: str) -> Any:
        return self._format.make_fragment(path, self._filesystem, self._guarantee(path))

    def _guarantee(self, path: str) -> Any:
        """What holds for each row of a file, as an expression."""
        import pyarrow as pa
        import pyarrow.compute as pc

        whole = None
        for name, value in self._keys[path].items():
            holds = pc.field(name).is_null() if value is None else pc.field(name) == pa.scalar(value, self._kinds[name])
            whole = holds if whole is None else whole & holds
        return whole

    def _left(self, expression: Expression | None, schema: pa.Schema) -> list[Any]:
        from pyarrow import dataset

        whole = dataset.FileSystemDataset(self._fragments, schema, self._format, self._filesystem)
        wanted = {fragment.path for fragment in whole.get_fragments(expression)}
        return [fragment for fragment in self._fragments if fragment.path in wanted]

    def _describe(self, fragment: Any) -> FileColumns:
        import pyarrow as pa

        path = fragment.path
        if path not in self._described:
            try:
                self._described[path] = self._alike(path, fragment.metadata, fragment.physical_schema)
            except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # the last is of a column's name
                raise SourceError(f"the footer of {path} cannot be read: {error}") from error
        return self._described[path]

    def _alike(self, path: str, metadata: Any, schema: Any) -> FileColumns:
        """What a file holds. Most files of a feed are alike, and looked into only once."""
        words = metadata.metadata or {}
        said = {key: words[key] for key in TELLING if key in words}
        for other, stored, words_there, about in self._kinds_of_files:
            if said == words_there and metadata.schema.equals(other) and schema.equals(stored):
                return replace(about, path=path)
        about = describe(path, metadata, schema)
        self._kinds_of_files.append((metadata.schema, schema, said, about))
        return about


def _merged(files: Sequence[FileColumns], kinds: Mapping[str, Any]) -> Table:
    """The columns of all files, and of their directories: these hold where a file has a column of the same name, as in Spark."""
    kinds_of_files: list[FileColumns] = []
    for file in files:
        if not any(file.columns == other.columns and list(file.columns) == list(other.columns) for other in kinds_of_files):
            kinds_of_files.append(file)
    table = Table({}, any(len(alike) > 1 for file in kinds_of_files for alike in by_case(file.columns).values()))
    first: dict[str, str] = {}  # the file that gave a column its type
    for file in kinds_of_files:
        same = pairs(list(table.columns), list(file.columns), exact=table.exact)
        spelling = {there: name for name, there in same.items()}
        for there, held in file.columns.items():
            name = spelling.get(there, there)
            if name not in table.columns:
                table.columns[name], first[name] = held, file.path
                continue
            try:
                whole = unify(table.columns[name], held, name)
            except Differ as error:
                table.problems.setdefault(name, _differ(error, first[name], file.path))
                continue
            if whole != table.columns[name]:
                table.columns[name], first[name] = whole, file.path
    for file in files:
        spelling = {there: name for name, there in pairs(table.names, list(file.problems), exact=table.exact).items()}
        for there, problem in file.problems.items():
            table.problems.setdefault(spelling.get(there, there), f"column {there!r} of {file.path} cannot be fed: {problem}")
    for name, kind in kinds.items():
        for twin in pairs([name], table.names, exact=table.exact).values():
            table.columns = {name if other == twin else other: held for other, held in table.columns.items()}
            table.problems.pop(twin, None)
        table.columns[name] = Held(kind)
    return table


def _differ(error: Differ, one: str, other: str) -> str:
    said = [str(each.kind) if each.node is None else _said(each.node) for each in (error.one, error.other)]
    return (
        f"column {error.path!r} is {said[0]} in {one} and {said[1]} in {other}, and no type holds both as they are; leave the "
        "column out (columns=), feed the files one after the other, or write them anew with one type"
    )


def _said(node: Any) -> str:
    return node if isinstance(node, str) else str(node.get("class") or node.get("pyClass") or node["type"])
