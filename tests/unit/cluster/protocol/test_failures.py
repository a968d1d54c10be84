"""Failures of nodes and Spark jobs as exceptions."""

from __future__ import annotations

import pytest

from tfos_fast import errors
from tfos_fast.cluster.protocol.failures import check_rows, exception_of, job_exception, root_first
from tfos_fast.cluster.protocol.messages import Failure
from tfos_fast.cluster.tasks.feed import PartitionResult


def failure(node, kind="NodeFailed", traceback="", **more):
    return Failure(kind, f"{node} on here: it failed", node, "here", traceback, **more)


def test_a_consequence_goes_behind_its_cause():
    lost = failure("worker:0", traceback="tensorflow.python.framework.errors_impl.UnavailableError: Socket closed")
    cause = failure("worker:1", traceback="ZeroDivisionError: division by zero")
    last = failure("worker:2", traceback="KeyError: 1")
    assert root_first([lost, cause, last]) == [cause, last, lost]
    assert root_first([last, cause]) == [last, cause]


def test_an_exception_tells_all():
    first = failure("worker:1", "NodeKilled", signal=9, log_tail="step 7\nstep 8")
    error = exception_of(first, failure("worker:0", traceback="KeyError: 1"))
    assert isinstance(error, errors.NodeKilled)
    assert (error.signal, error.node, error.host, error.log_tail) == (9, "worker:1", "here", "step 7\nstep 8")
    assert [other.node for other in error.others] == ["worker:0"]
    assert str(error).startswith("worker:1 on here: it failed\n\nThe same at worker:0 on here")
    assert str(error).endswith("Last lines of the log of worker:1 (here):\nstep 7\nstep 8")
    lost = exception_of(failure("worker:1", "NodeLost"))
    assert isinstance(lost, errors.NodeLost)
    assert isinstance(lost, errors.NodeKilled)
    assert isinstance(exception_of(failure("worker:1", "StallTimeout")), errors.StallTimeout)


def test_what_several_nodes_say_is_told_once():
    """As of a spec that main refuses: every node does, and the traceback ends with the same words."""
    words = "main raised tfos_fast.errors.FormError: column 'x': the spec says 'flaot32'"
    frames = "Traceback (most recent call last):\n  File 'a.py', line 3, in main\n    feed.batches(spec)"
    ends = f"{frames}\n{words.removeprefix('main raised ')}\n"
    one, two = (Failure("NodeFailed", f"worker:{i} on here: {words}", f"worker:{i}", "here", ends) for i in range(2))
    other = Failure("NodeFailed", "worker:2 on here: main raised KeyError: 1", "worker:2", "here", "KeyError: 1")
    error = exception_of(one, two, other)
    assert str(error).count("flaot32") == 1
    assert "The same at worker:1 on here\n\nAnd then: worker:2 on here: main raised KeyError: 1" in str(error)
    assert str(error).endswith("line 3, in main\n    feed.batches(spec)")
    assert error.remote_traceback == ends  # whole
    long = "ValueError: a\n\nb"
    several = Failure("NodeFailed", f"worker:0 on here: main raised {long}", "worker:0", "here", f"frames\n{long}\n")
    assert str(exception_of(several)).count("ValueError: a\n\nb") == 1


def test_spark_errors_in_our_words():
    theirs = Exception("Job aborted: ...\ntfos_fast.errors.RowTooLarge: row 7 is too large\n\n\tat org.apache")
    ours = job_exception(theirs)
    assert isinstance(ours, errors.RowTooLarge)
    assert (ours.spark_error, ours.__cause__, ours.__context__) == (theirs, None, None)
    assert str(ours) == "row 7 is too large"
    crashed = job_exception(Exception("org.apache.spark.SparkException: Python worker exited unexpectedly (crashed)\n\tat x"))
    assert isinstance(crashed, errors.TaskLost)
    assert "spark.task.maxFailures" in str(crashed)
    text = "[SPARK_JOB_CANCELLED] Job 3 cancelled because of tfos_fast.errors.SchemaMismatch: row 7: 'x' SQLSTATE: XXKDA\n\tat org"
    cancelled = job_exception(Exception(f"calling o1.collect\n: org.apache.spark.SparkException: {text}"))
    assert (type(cancelled), str(cancelled)) == (errors.SchemaMismatch, "row 7: 'x'")
    others = Exception("ZeroDivisionError")
    assert job_exception(others) is others


def test_rows_that_cannot_be_fed_are_told_in_results():
    good = PartitionResult(0, whole=True)
    check_rows([])
    check_rows([good, good])
    for kind in (errors.SchemaMismatch, errors.RowTooLarge, errors.SourceError):
        with pytest.raises(kind, match=r"^row 7: line one\nline two$") as caught:
            check_rows([good, PartitionResult(1, error=f"{kind.__name__}\nrow 7: line one\nline two"), good])
        assert caught.value.spark_error is None
