"""``main`` and its arguments on their way to the trainers, with the files that their code is from.

Functions of a script or notebook travel by value. TensorFlow's AutoGraph, tracebacks and debuggers look for a function's source by
the name of its file, which cloudpickle leaves out from 3.1.3 on (cloudpickle/cloudpickle.py, ``_code_reduce``); and on another host
there is no such file. So names are kept, and the lines of these files go along, into the ``linecache`` of the trainer.
"""

from __future__ import annotations

import io
import linecache
import pickle
from collections import ChainMap
from collections.abc import Callable
from types import CodeType
from typing import Any

import cloudpickle

MAX_LINES = 100_000  # of a file; what has more was made by a program, and is not sent


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Notes the files of the code that it pickles."""

    def __init__(self, file: io.BytesIO) -> None:
        self.names: set[str] = set()
        self.dispatch_table = ChainMap({CodeType: self._reduce_code}, cloudpickle.Pickler.dispatch_table)  # read when it begins
        super().__init__(file)

    def _reduce_code(self, code: CodeType) -> tuple[Callable[..., CodeType], tuple[Any, ...]]:
        self.names.add(code.co_filename)
        make, parts = cloudpickle.Pickler.dispatch_table[CodeType](code)
        return _from_file, (code.co_filename, make, parts)


def _from_file(name: str, make: Callable[..., CodeType], parts: tuple[Any, ...]) -> CodeType:
    return make(*parts).replace(co_filename=name)


def dumps(value: Any) -> bytes:
    """Pickle it by cloudpickle, with the names of its code's files and their lines.

    Raises
    ------
    Exception
        What cloudpickle raises for a value that cannot be pickled.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(value)
    files = {name: lines for name in sorted(pickler.names) if 0 < len(lines := linecache.getlines(name)) <= MAX_LINES}
    return pickle.dumps((files, buffer.getvalue()))


def loads(data: bytes) -> Any:
    """What `dumps` pickled. The lines of its code's files are in ``linecache`` then, whatever lies under their names here."""
    files, value = pickle.loads(data)
    for name, lines in files.items():
        # Without a time of modification an entry is not compared with a file (CPython, Lib/linecache.py, checkcache).
        linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
    return pickle.loads(value)
