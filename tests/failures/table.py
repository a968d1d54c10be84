"""The table of failures: who x what x when -> what the driver sees. `docs/failures.md` shows it, `test_table.py` runs it."""

from __future__ import annotations

from dataclasses import dataclass

from tfos_fast import errors

POINTS = ("reserve", "start", "first batch", "mid feed", "end of feed", "inference result", "shutdown")
EXCEPTION, KILL, STOP = "exception", "SIGKILL", "SIGSTOP"


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes
    ----------
    who : str
        trainer, feeder (a Python worker of Spark in a feed task), worker (one that reserves or starts), agent, executor (its JVM).
    what : str
        exception, SIGKILL, or SIGSTOP for longer than the timeout.
    when : str
        A point.
    error : type, tuple of types or None
        Of the driver's exception; None: the cluster goes on and every row arrives once.
    says : str
        A regular expression found in the message; ``{node}`` and ``{pid}`` are those of the victim.
    restarts : int
        So often a trainer may be started again.
    """

    who: str
    what: str
    when: str
    error: type[Exception] | tuple[type[Exception], ...] | None
    says: str = ""
    restarts: int = 0

    def __str__(self) -> str:
        return f"{self.who}-{self.what}-{self.when}{'-restarted' * bool(self.restarts)}".replace(" ", "_")


RUNNING = POINTS[1:]
FEEDING = ("first batch", "mid feed", "end of feed")


# What comes first: the feed's timeout, or the seconds after which an agent that says nothing is taken for dead.
_SILENT = (errors.StallTimeout, r"nothing was heard of the agent of {node} on .* \(process {pid}\)")
_LOST = (errors.NodeLost, r"{node} on .*nothing was heard of its agent \(process {pid}\) for \d+ s; it is stopped")
# At a feed's ends a task may be the first to give up. Spark's next try goes to the other node, or finds the partition delivered,
# and the job ends well: then it is the end of the epoch that the agent does not confirm.
_EITHER = ((errors.StallTimeout, errors.NodeLost), r"nothing was heard of (its agent|the agent of {node} on .*) \(process {pid}\)")


def _rows() -> list[Row]:
    rows = []
    for when in RUNNING:
        rows += [
            Row("trainer", EXCEPTION, when, errors.NodeFailed, r"{node} on .*Planned: planned for trainer at " + when),
            Row("trainer", KILL, when, errors.NodeKilled, r"{node} on .*\(process {pid}\) was killed by signal 9 \(SIGKILL\)"),
            Row("trainer", STOP, when, errors.StallTimeout, r"{node} on .*trainer \(process {pid}\).*is stopped"),
            Row("agent", EXCEPTION, when, errors.NodeFailed, r"{node} on .*agent \(process {pid}\) failed: .*planned for agent"),
            Row("agent", KILL, when, errors.NodeLost, r"{node} on .*agent \(process {pid}\) was killed by signal 9 \(SIGKILL\)"),
            Row("agent", STOP, when, *(_EITHER if when in ("start", "end of feed") else _SILENT if when in FEEDING else _LOST)),
            Row("executor", KILL, when, errors.NodeLost, r"{node} on .*Spark executor \(process {pid}\) died"),
            Row("trainer", EXCEPTION, when, None, restarts=1),
            Row("trainer", KILL, when, None, restarts=1),
        ]
    for when in ("start", *FEEDING):
        rows.append(Row("executor", STOP, when, errors.StallTimeout, r"executor of {node} .*\(process {pid}\).*is stopped"))
    rows.append(Row("executor", STOP, "shutdown", None))  # nothing is left to be done there
    for when in FEEDING:
        rows += [
            Row("feeder", EXCEPTION, when, None),
            Row("feeder", KILL, when, None),
            Row("feeder", STOP, when, errors.StallTimeout, r"feed task \(process {pid}\).*is stopped"),
        ]
    rows += [
        Row("feeder", EXCEPTION, "inference result", None),
        Row("feeder", KILL, "inference result", None),
        Row("feeder", STOP, "inference result", None),  # the agent kills it
        Row("executor", STOP, "inference result", None),  # Spark takes it for lost
        Row("worker", EXCEPTION, "reserve", errors.TaskLost, "barrier"),
        Row("worker", KILL, "reserve", errors.TaskLost, "Spark gave up on a task that was lost: .*barrier"),
        Row("worker", STOP, "reserve", errors.ClusterTimeout, "reservation_timeout"),
        Row("agent", EXCEPTION, "reserve", errors.NodeFailed, "Planned: planned for agent at reserve"),
        Row("agent", KILL, "reserve", errors.NodeFailed, r"ended at its start: it was killed by signal 9 \(SIGKILL\)"),
        Row("agent", STOP, "reserve", errors.ClusterTimeout, "reservation_timeout"),
        Row("executor", KILL, "reserve", errors.TaskLost, "Spark gave up on a task that was lost: .*barrier"),
        Row("executor", STOP, "reserve", errors.ClusterTimeout, "reservation_timeout"),
        Row("worker", EXCEPTION, "start", None),
        Row("worker", KILL, "start", None),
        Row("worker", STOP, "start", errors.ClusterTimeout, "waits for Spark to run a job"),
    ]
    return rows


ROWS = _rows()

# Rows that other tests of ``make test`` run.
ELSEWHERE = {
    "trainer-exception-mid_feed": "tests/spark/test_local_cluster.py::test_exception_in_main_is_raised_by_feed",
    "trainer-SIGKILL-mid_feed": "tests/spark/test_local_cluster.py::test_killed_trainer_is_named",
    "trainer-exception-shutdown": "tests/spark/test_local_cluster.py::test_exception_after_the_feed_is_raised_by_shutdown",
    "agent-SIGKILL-mid_feed": "tests/spark/test_local.py::test_killed_agent_is_named",
    "executor-SIGKILL-mid_feed": "tests/spark/test_local_cluster.py::test_death_of_an_executor_is_an_error",
    "feeder-SIGKILL-mid_feed": "tests/failures/test_once.py::test_killed_feeders",
}


def pairs(row: Row) -> set[tuple[str, str]]:
    """Who x what, what x when, and who x when; whether a trainer is started again.

    An executor's end is the same to its agent at every point behind the reservation, and slow to run: Spark brings up another.
    """
    when = "at work" if row.who == "executor" and row.when != "reserve" else row.when
    return {(row.who, row.what), (row.what, row.when), (row.who, when), ("restarts", str(row.restarts))}


def _seconds(row: Row) -> int:
    """Roughly: a stopped process is waited for, and a lost executor comes again."""
    return (8 if row.what == STOP else 2) + (4 if row.who == "executor" else 0)


def pairwise() -> list[Row]:
    """Few and quick rows that show, with those of ``ELSEWHERE``, each pair that the table has."""
    left = set().union(*(pairs(row) for row in ROWS)) - set().union(*(pairs(row) for row in ROWS if str(row) in ELSEWHERE))
    chosen: list[Row] = []
    while left:
        chosen.append(max(ROWS, key=lambda row: len(pairs(row) & left) / _seconds(row)))
        left -= pairs(chosen[-1])
    # What later ones show, too, is not needed.
    for row in list(chosen):
        others = set().union(*(pairs(other) for other in chosen if other is not row))
        if pairs(row) <= others.union(*(pairs(other) for other in ROWS if str(other) in ELSEWHERE)):
            chosen.remove(row)
    return [row for row in ROWS if row in chosen]
