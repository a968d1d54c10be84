"""What a Spark task finds out about the executor that it runs on.

These functions travel by value (`tfos_fast.cluster.preflight.survey` sees to that), because the executor's Python may lack this
package: they need nothing but the standard library and pyspark, and they import no package of which they only want to know the
version.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import importlib.metadata
import importlib.util
import itertools
import os
import platform
import resource
import socket
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tfos_fast.channel.host import kernel
from tfos_fast.channel.host import memory as memory_facts
from tfos_fast.channel.host.memory import available_bytes

GREETING = 0xFF  # the first byte that a ZeroMQ socket sends to whoever connects


def package(name: str, beside: str) -> dict[str, str] | None:
    """Version, digest of the Python files and folder of a package, without importing it.

    ``beside`` names a folder inside that does not count.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = os.path.abspath(next(iter(spec.submodule_search_locations)))
    digest = hashlib.sha256()
    version = ""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - {"__pycache__", beside})
        for file in sorted(files):
            if not file.endswith(".py"):
                continue
            path = os.path.join(where, file)
            with open(path, "rb") as opened:
                text = opened.read()
            digest.update(f"{os.path.relpath(path, folder)} {len(text)} ".encode() + text)
            if path == os.path.join(folder, "__init__.py"):
                version = next(
                    (line.split(b'"')[1].decode() for line in text.splitlines() if line.startswith(b'__version__ = "')), ""
                )
    return {"version": version, "digest": digest.hexdigest(), "folder": folder}


def version_of(module: str, distributions: Iterable[str]) -> str | None:
    """Version of an installed module by the names of the distributions that may bring it; None when it is missing, "" unknown."""
    if importlib.util.find_spec(module) is None:
        return None
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def reach(host: str, port: int, patience: float) -> str:
    """Why the coordinator cannot be reached from here, "" if it can."""
    try:
        with socket.create_connection((host, port), patience) as connection:
            connection.settimeout(patience)
            first = connection.recv(1)
    except TimeoutError:
        return f"no answer within {patience:g} s"
    except OSError as error:
        return (errno.errorcode.get(error.errno, "") + " " if error.errno else "") + (error.strerror or str(error))
    if first != bytes([GREETING]):
        return "something else answers there"
    return ""


def import_error(name: str, modules: Iterable[str]) -> str:
    """Why the compiled modules of the package, or others, cannot be imported here, "" if they can."""
    try:
        folder = os.path.dirname(str(importlib.import_module(name).__file__))
        compiled = [f"{name}.{file.partition('.')[0]}" for file in sorted(os.listdir(folder)) if file.endswith(".so")]
        for module in [*modules, *compiled]:
            importlib.import_module(module)
    except ImportError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def look(
    name: str,
    beside: str,
    modules: Mapping[str, tuple[str, ...]],
    endpoint: tuple[str, int] | None,
    patience: float,
    load: tuple[str, ...],
) -> dict[str, Any]:
    """The facts of this process, as plain values.

    Parameters
    ----------
    name, beside : str
        See :func:`package`.
    modules : mapping
        Module -> names of the distributions that may bring it.
    endpoint : (host, port), optional
        Of the coordinator.
    patience : float
        Seconds to wait for its answer.
    load : tuple of str
        Import the package and these modules to see whether they work; empty: import nothing.
    """
    import pyspark

    free, source = available_bytes()
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    return {
        "host": socket.gethostname(),
        "machine": machine(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "abi": str(sysconfig.get_config_var("SOABI")),
        "system": f"{sys.platform} {platform.machine()}",
        "ours": package(name, beside),
        "versions": {module: version_of(module, names) for module, names in modules.items()} | {"pyspark": pyspark.__version__},
        "free": free,
        "free_source": source,
        "address_space": None if address_space == resource.RLIM_INFINITY else address_space,
        "lacking": kernel.missing(os.environ),
        "unreachable": reach(*endpoint, patience) if endpoint else "",
        "import_error": import_error(name, load) if load else "",
    }


def machine() -> str:
    """The kernel's boot and the namespace of process ids, which processes that see each other have in common.

    Where /proc tells less, the host's name stands for it; `kernel.missing` then says what is wrong.
    """
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{kernel.boot_id() or socket.gethostname()}/{namespace}"


def where() -> tuple[str, int | None]:
    """The executor that this Python worker belongs to, in words that others can compare, and its cores where its JVM tells."""
    pid, told = _executor()
    name = f"{told.get('--executor-id', '')}@{machine()}/{pid}"
    cores = told.get("--cores", "")
    return name, int(cores) if cores.isdigit() else None


def known_as() -> str:
    """The host name or address by which other executors know this one, "" where its JVM does not tell."""
    return _executor()[1].get("--hostname", "")


def _executor() -> tuple[int, dict[str, str]]:
    """The nearest ancestor that is no Python, and the options of its command line."""
    pid = os.getppid()
    while True:
        with open(f"/proc/{pid}/stat") as file:
            name, _, rest = file.read().partition("(")[2].rpartition(")")
        parent = int(rest.split()[1])
        if "python" not in name or parent <= 1:
            break
        pid = parent
    with open(f"/proc/{pid}/cmdline") as file:
        command = file.read().split("\0")
    return pid, {option: value for option, value in itertools.pairwise(command) if option.startswith("--")}


class Census:
    """A Spark task that says where it runs, and stays for ``hold`` seconds so that others go to other slots."""

    def __init__(self, hold: float) -> None:
        self.hold = hold

    def __call__(self, _: int, __: Iterable[object]) -> Iterator[dict[str, Any]]:
        executor, cores = where()
        yield {"executor": executor, "cores": cores}
        time.sleep(self.hold)


def in_arrow(task: Any, items: Mapping[int, bytes] | None, numbers: Sequence[int] | None) -> Any:
    """A function for ``mapInArrow`` over one row in each partition: runs ``task(number, [item])``, gives its results pickled.

    Parameters
    ----------
    task : callable
    items : mapping, optional
        Number -> the pickled item.
    numbers : sequence of int, optional
        Of the items, by the partition's number; default: the same.
    """

    def run(batches: Iterable[Any]) -> Iterator[Any]:
        import pickle

        import pyarrow as pa
        from pyspark import TaskContext

        for _ in batches:
            pass
        here: Any = TaskContext.get()
        number = here.partitionId() if numbers is None else numbers[here.partitionId()]
        given = [] if items is None else [pickle.loads(items[number])]
        for result in task(number, iter(given)):
            yield pa.RecordBatch.from_pydict({"result": pa.array([pickle.dumps(result)], pa.binary())})

    return run


def travel() -> None:
    """Let pyspark pickle these functions by value: documented by cloudpickle for modules that the other side cannot import."""
    from pyspark import cloudpickle  # a copy of its own

    for module in (sys.modules[__name__], memory_facts, kernel):
        cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]  # pyspark's copy has no annotations


def task(arguments: tuple[Any, ...], hold: float, _: int, __: Iterable[object]) -> Iterator[dict[str, Any]]:
    """The Spark task; it stays for ``hold`` seconds so that others go to other executors."""
    begin = time.monotonic()
    yield look(*arguments)
    time.sleep(max(0.0, hold - (time.monotonic() - begin)))
