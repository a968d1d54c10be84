"""What stands in the way of a cluster, from facts about Spark's settings and its executors: facts in, problems out.

Nothing here asks Spark or the system; `tfos_fast.cluster.preflight.survey` gathers the facts. Each problem is one sentence that
says what was found, what is needed, and which setting mends it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfos_fast import errors
from tfos_fast.errors import TfosError

MIB = 1 << 20

# Module -> names of the distributions that bring it, and the oldest version that will do.
NEEDED: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "numpy": (("numpy",), (1, 26)),
    "zmq": (("pyzmq",), (25,)),
    "msgspec": (("msgspec",), (0, 18)),
    "psutil": (("psutil",), (5, 9)),
    "cloudpickle": (("cloudpickle",), (3,)),
}
LOOKED_AT = {module: names for module, (names, _) in NEEDED.items()} | {
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tf-nightly", "tensorflow-rocm", "tensorflow-aarch64", "intel-tensorflow")
}
TRAVEL = ("zmq", "msgspec", "psutil", "cloudpickle")  # what is sent along with this package where it is missing


@dataclass(frozen=True)
class Facts:
    """What `tfos_fast.cluster.spark.probe.look` found in one Python process.

    Attributes
    ----------
    versions : dict
        Module -> version, None when it is missing, "" when it is unknown.
    ours : dict or None
        ``version``, ``digest`` and ``folder`` of this package.
    free : int
        Bytes of memory that the process may still use, according to ``free_source``.
    address_space : int or None
        Its limit of address space, where it has one.
    unreachable : str
        Why the coordinator cannot be reached.
    import_error : str
        Why this package cannot be imported, if that was tried.
    lacking : list of str
        A sentence for each thing that the operating system withholds from the process (`tfos_fast.channel.host.kernel`).
    """

    host: str
    machine: str
    python: str
    executable: str
    abi: str
    system: str
    ours: dict[str, str] | None
    versions: dict[str, str | None]
    free: int
    free_source: str
    address_space: int | None = None
    unreachable: str = ""
    import_error: str = ""
    lacking: Sequence[str] = ()


@dataclass(frozen=True)
class Need:
    """What the cluster needs of its executors.

    Attributes
    ----------
    nodes : int
    memory : int
        Bytes of a node's segment.
    endpoint : str
        Of the coordinator.
    """

    nodes: int
    memory: int
    endpoint: str


@dataclass(frozen=True)
class Problem:
    """One thing that stands in the way."""

    kind: type[TfosError]
    text: str

    def exception(self) -> TfosError:
        """It as an exception."""
        return self.kind(self.text)


@dataclass
class Findings:
    """What a look at the executors brought.

    Attributes
    ----------
    problems : list of Problem
    advice : list of str
        What works, but not as well as it could.
    ship : bool
        This package is missing on an executor, or is another one.
    along : set of str
        Modules that must go along with it.
    """

    problems: list[Problem] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    ship: bool = False
    along: set[str] = field(default_factory=set)


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise what was found, all of it at once.

    Raises
    ------
    TfosError
        Of the problem's own class when there is one only, else PreflightFailed.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0].exception()
    lines = "\n".join(f"  {number}. {problem.text}" for number, problem in enumerate(problems, 1))
    text = f"{len(problems)} things stand in the way of the cluster; nothing was started:\n{lines}"
    raise errors.PreflightFailed(text, tuple(problem.exception() for problem in problems))


# ---- settings ----------------------------------------------------------------------------------------------------------------


def check_settings(settings: Mapping[str, str]) -> Findings:
    """What Spark's settings alone tell."""
    found = Findings()
    if settings.get("spark.dynamicAllocation.enabled", "false").lower() == "true":
        found.problems.append(
            Problem(
                errors.SettingRefused,
                "spark.dynamicAllocation.enabled is true: Spark could take away the executors that nodes live on, and it refuses "
                "barrier jobs then; set it to false",
            )
        )
    if settings.get("spark.python.worker.reuse", "true").lower() == "false":
        found.advice.append(
            "spark.python.worker.reuse is false: every feed task starts a Python process of its own and imports everything anew; "
            "set it to true, which is its default"
        )
    return found


# ---- executors ---------------------------------------------------------------------------------------------------------------


def check_executors(facts: Sequence[Facts], driver: Facts, need: Need) -> Findings:
    """What the executors' own words tell, compared with the driver's.

    Parameters
    ----------
    facts : sequence of Facts
        One entry for each executor.
    driver : Facts
    need : Need
    """
    found = Findings()
    found.problems += _lacking(facts, driver)
    found.problems += _unreachable(facts, need)
    found.problems += _memory(facts, need)
    _versions(found, facts, driver)
    _shipping(found, facts, driver)
    return found


def check_shipped(facts: Sequence[Facts], driver: Facts, along: Iterable[str]) -> list[Problem]:
    """Whether executors have what was sent to them, and can import it."""
    problems = []
    assert driver.ours is not None
    for where, (problem,) in _grouped(facts, lambda one: (_not_arrived(one, driver.ours),)).items():
        problems.append(Problem(errors.VersionMismatch, f"tfos_fast was sent to {where}, and {problem}"))
    what = ", ".join(sorted({NEEDED[module][0][0] for module in along} | {"tfos_fast"}))
    for where, (text,) in _grouped(facts, lambda one: (one.import_error,)).items():
        problems.append(
            Problem(
                errors.MissingDependency,
                f"what was sent to {where} cannot be imported there ({text}); install {what} in the executors' Python",
            )
        )
    return problems


def explain_spark(text: str) -> Problem | None:
    """A problem that Spark itself met when it started Python on an executor, from the words of its error."""
    versions = re.search(r"Python in worker has different version:?\s*\(?'?([\d.]+).*?driver:?\s*\(?'?([\d.]+)", text, re.DOTALL)
    if versions:
        worker, driver = (version.rstrip(".") for version in versions.groups())
        return Problem(
            errors.VersionMismatch,
            f"the executors run Python {worker} and the driver runs {driver}, which Spark refuses; set the environment variable "
            f"PYSPARK_PYTHON (with spark-submit: spark.pyspark.python) to a Python {driver} that every executor has",
        )
    program = re.search(r'Cannot run program "([^"]+)"', text)
    if program:
        return Problem(
            errors.MissingDependency,
            f"the executors have no Python {program.group(1)}; set the environment variable PYSPARK_PYTHON "
            "(with spark-submit: spark.pyspark.python) to one that every executor has",
        )
    return None


def _lacking(facts: Sequence[Facts], driver: Facts) -> list[Problem]:
    problems: dict[str, list[Facts]] = {}
    for one in facts:
        for text in one.lacking:
            problems.setdefault(text, []).append(one)
    told = [Problem(errors.UnsupportedPlatform, f"on {_executors(ones)}, {text}") for text, ones in problems.items()]
    # On the driver's own machine the executors have said it already.
    return told + [
        Problem(errors.UnsupportedPlatform, f"on the driver's host {driver.host}, {text}")
        for text in driver.lacking
        if text not in problems
    ]


def _unreachable(facts: Sequence[Facts], need: Need) -> list[Problem]:
    return [
        Problem(
            errors.CoordinatorUnreachable,
            f"{where} cannot reach the coordinator of the driver at {need.endpoint} ({why}); give reserve a server_host (or set "
            "TFOS_SERVER_HOST, or spark.driver.host) that executors can reach, and open server_port (TFOS_SERVER_PORT) to them",
        )
        for where, (why,) in _grouped(facts, lambda one: (one.unreachable,)).items()
    ]


def _memory(facts: Sequence[Facts], need: Need) -> list[Problem]:
    problems = []
    machines: dict[str, list[Facts]] = {}
    for one in facts:
        machines.setdefault(one.machine, []).append(one)
    short: dict[tuple[int, str], list[Facts]] = {}
    for here in machines.values():
        # With more executors than nodes nobody knows which get one: what is certain is that one node fits or not.
        nodes = min(need.nodes, -(-need.nodes // len(facts)) * len(here)) if need.nodes >= len(facts) else 1
        least = min(here, key=lambda one: one.free)
        if nodes * need.memory > least.free:
            short.setdefault((nodes, least.free_source), []).extend(here)
    for (nodes, source), ones in short.items():
        many = f"{nodes} nodes need {nodes} times {_mib(need.memory)} there" if nodes > 1 else f"a node needs {_mib(need.memory)}"
        text = (
            f"{_executors(ones)} may still use {_mib(min(one.free for one in ones))} of memory ({source}), and {many}; lower the "
            "setting memory, or give the container or machine more (on YARN and Kubernetes: spark.executor.memoryOverhead)"
        )
        problems.append(Problem(errors.NotEnoughMemory, text))
    for where, (limit,) in _grouped(facts, lambda one: (_space(one, need),)).items():
        problems.append(
            Problem(
                errors.NotEnoughMemory,
                f"Python processes of {where} may have {limit} of address space, and a node's memory alone is {_mib(need.memory)}; "
                "unset spark.executor.pyspark.memory, or lower the setting memory",
            )
        )
    return problems


def _space(one: Facts, need: Need) -> str:
    return _mib(one.address_space) if one.address_space is not None and one.address_space < need.memory else ""


def _versions(found: Findings, facts: Sequence[Facts], driver: Facts) -> None:
    def other(module: str, parts: int) -> dict[str, tuple[str, ...]]:
        def look(one: Facts) -> tuple[str, ...]:
            theirs, mine = one.versions.get(module), driver.versions.get(module)
            differs = theirs and mine and theirs.split(".")[:parts] != mine.split(".")[:parts]
            return (str(theirs), _python(one)) if differs else ("",)

        return _grouped(facts, look)

    for where, (version, _) in other("pyspark", 2).items():
        text = (
            f"{where} runs pyspark {version} and the driver runs {driver.versions['pyspark']}; install the same on both, and unset "
            "SPARK_HOME where it names another"
        )
        found.problems.append(Problem(errors.VersionMismatch, text))
    for where, (version, python) in other("numpy", 1).items():
        text = (
            f"{where} has numpy {version} and the driver has {driver.versions['numpy']}: arrays pickled by one may not be readable "
            f"for the other; install the same major version in {python}"
        )
        found.problems.append(Problem(errors.VersionMismatch, text))
    for where, (version, python) in _grouped(facts, _old_numpy).items():
        least = ".".join(map(str, NEEDED["numpy"][1]))
        text = f"{where} has {version}; install numpy {least} or newer in {python}"
        found.problems.append(Problem(errors.MissingDependency, text))
    flows = {one.versions.get("tensorflow") or "none" for one in facts}
    if len(flows) > 1:
        each = ", ".join(f"{'no TensorFlow' if v == 'none' else v} on {_executors(ones)}" for v, ones in _by_flow(facts).items())
        text = (
            f"the executors have different versions of TensorFlow ({each}); install the same in the Python of each (PYSPARK_PYTHON)"
        )
        found.problems.append(Problem(errors.VersionMismatch, text))
    elif flows == {"none"}:
        theirs = ", ".join(dict.fromkeys(one.executable for one in facts))
        found.advice.append(
            f"the executors' Python ({theirs}) has no TensorFlow; if main needs it, install it there, or set PYSPARK_PYTHON to a "
            "Python that has it"
        )
    else:
        for where, (version, _) in other("tensorflow", 2).items():
            found.advice.append(f"{where} has TensorFlow {version}, the driver has {driver.versions['tensorflow']}")


def _shipping(found: Findings, facts: Sequence[Facts], driver: Facts) -> None:
    if driver.ours is None:
        return
    lacking = [one for one in facts if _not_ours(one, driver.ours)]
    old = {module: [one for one in facts if _too_old(one, module)] for module in TRAVEL}
    found.along = {module for module, ones in old.items() if ones}
    found.ship = bool(lacking or found.along)
    if not found.ship:
        return
    receivers = [one for one in facts if one in lacking or any(one in ones for ones in old.values())]
    what = "; ".join(dict.fromkeys(_not_ours(one, driver.ours) or _all_too_old(one) for one in receivers))
    for where, (abi, system, python) in _grouped(receivers, lambda one: _foreign(one, driver)).items():
        found.problems.append(
            Problem(
                errors.VersionMismatch,
                f"{where} has {what}, and the driver's tfos_fast cannot be sent there, because it is compiled for {driver.abi} "
                f"({driver.system}) and {where} runs {abi} ({system}); install tfos-fast {driver.ours['version']} in {python}",
            )
        )


def _not_ours(one: Facts, ours: Mapping[str, str]) -> str:
    """In words: what this executor has in the place of the driver's package."""
    if one.ours is None:
        return "no tfos_fast"
    if one.ours["version"] != ours["version"]:
        return f"tfos_fast {one.ours['version'] or 'of an unknown version'} in {one.ours['folder']}"
    if one.ours["digest"] != ours["digest"]:
        return f"another build of tfos_fast {ours['version']} in {one.ours['folder']}"
    return ""


def _not_arrived(one: Facts, ours: Mapping[str, str] | None) -> str:
    assert ours is not None
    instead = _not_ours(one, ours)
    return (
        f"Python there finds {instead}: take that off the executors' PYTHONPATH (spark.executorEnv.PYTHONPATH)" if instead else ""
    )


def _all_too_old(one: Facts) -> str:
    return ", ".join(text for module in TRAVEL if (text := _too_old(one, module)))


def _too_old(one: Facts, module: str) -> str:
    """In words: that this executor lacks the module, or has one that is too old; "" if neither."""
    names, least = NEEDED[module]
    version = one.versions.get(module)
    if version is None:
        return f"no {names[0]}"
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[: len(least)])
    return f"{names[0]} {version}" if numbers and numbers < least else ""


def _foreign(one: Facts, driver: Facts) -> tuple[str, ...]:
    return ("",) if (one.abi, one.system) == (driver.abi, driver.system) else (one.abi, one.system, _python(one))


def _old_numpy(one: Facts) -> tuple[str, ...]:
    found = _too_old(one, "numpy")
    return (found, _python(one)) if found else ("",)


def _by_flow(facts: Sequence[Facts]) -> dict[str, list[Facts]]:
    versions: dict[str, list[Facts]] = {}
    for one in facts:
        versions.setdefault(one.versions.get("tensorflow") or "none", []).append(one)
    return versions


# ---- words -------------------------------------------------------------------------------------------------------------------


def _grouped(facts: Sequence[Facts], look: Any) -> dict[str, tuple[str, ...]]:
    """The executors by what ``look`` says of them, in words; those of which it says ``("",)`` are left out."""
    groups: dict[tuple[str, ...], list[Facts]] = {}
    for one in facts:
        said = look(one)
        if said != ("",):
            groups.setdefault(said, []).append(one)
    return {_executors(ones): said for said, ones in groups.items()}


def _python(one: Facts) -> str:
    return f"its Python ({one.executable}), or set PYSPARK_PYTHON to another"


def _executors(facts: Sequence[Facts]) -> str:
    hosts = list(dict.fromkeys(one.host for one in facts))
    names = ", ".join(hosts[:3]) + (f" and {len(hosts) - 3} more hosts" if len(hosts) > 3 else "")
    return f"the executor on {names}" if len(facts) == 1 else f"each of {len(facts)} executors on {names}"


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB" if size >= 10 * MIB else f"{size} bytes"
