"""Sending this package to executors that lack it: an archive that Spark unpacks in their working directory.

A compiled package cannot be imported from a zip of ``--py-files``. But the folder of Spark's files is on the module path of its
Python workers, before their own packages, and an archive added as ``path#tfos_fast`` is unpacked there, under that name,
before any task that was submitted later begins. So every function that we send by reference is found, and agents and trainers
find it too, since they take over the worker's module path.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import tfos_fast
from tfos_fast.cluster.preflight.checks import NEEDED
from tfos_fast.errors import MissingDependency

NAME, ALONG = "tfos_fast", "_along"


def build(path: Path, along: Iterable[str]) -> Path:
    """Write the archive: the files of this package, and in ``_along`` those of the libraries that bring these modules.

    Raises
    ------
    MissingDependency
        A library is not installed here in such a way that its files are known.
    """
    package = Path(str(tfos_fast.__file__)).parent
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in sorted(package.rglob("*")):
            inside = file.relative_to(package)
            if file.suffix in (".py", ".so", ".typed") and inside.parts[0] != ALONG:
                _add(archive, file, str(inside))
        for module in along:
            for file, inside_of in _files(module):
                _add(archive, file, f"{ALONG}/{inside_of}")
    return path


def _add(archive: zipfile.ZipFile, file: Path, name: str) -> None:
    # A fixed time, so that the same files make the same archive.
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o755 << 16
    archive.writestr(info, file.read_bytes())


def _files(module: str) -> Iterator[tuple[Path, str]]:
    """Files of the library that brings a module: as its installer has listed them, shared libraries beside it included."""
    (name, *_), _ = NEEDED[module]
    try:
        listed = importlib.metadata.distribution(name).files
    except importlib.metadata.PackageNotFoundError:
        listed = None
    if listed:
        for file in listed:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                yield Path(str(file.locate())), str(file)
        return
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(f"the executors have no {name}, and neither has the driver's Python; install it on both")
    folder = Path(next(iter(spec.submodule_search_locations)))
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path, os.path.join(module, str(path.relative_to(folder)))
