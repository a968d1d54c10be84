"""The rows of the table on one Spark: those that show every pair in every run, all of them with ``make failures``."""

from __future__ import annotations

import re

import pytest

import tfos_fast
from tests.failures import mains, runner
from tests.failures.conftest import WHOLE
from tests.failures.table import ELSEWHERE, ROWS, pairs, pairwise
from tests.spark.mains import noted
from tests.spark.sparks import ROOT
from tfos_fast.errors import NodeFailed

pytestmark = pytest.mark.spark


@pytest.mark.timeout(180)
@pytest.mark.parametrize("row", ROWS if WHOLE else pairwise(), ids=str)
def test_row(row, sc, folder, tmp_path, record_property):
    outcome = runner.run(sc, row, folder, str(tmp_path))
    record_property("seconds", round(outcome.seconds, 2))
    print(f"\n{row}: {outcome.seconds:.2f} s {type(outcome.error).__name__}: {str(outcome.error)[:600]}")
    if row.error is None:
        assert outcome.error is None, outcome.error
        if row.when == "inference result":
            assert outcome.results == 2 * list(range(mains.ROWS))
        else:
            rows = sorted(tuple(item) for node in noted(tmp_path).values() for item in node)
            assert rows == [(p, i) for p in range(2) for i in range(mains.ROWS)]
    else:
        assert isinstance(outcome.error, row.error), repr(outcome.error)
        says = row.says.replace("{node}", outcome.node).replace("{pid}", str(outcome.pid))
        assert re.search(says, str(outcome.error), re.DOTALL), f"{says!r} is not in {outcome.error}"
        if row.who in ("trainer", "executor") and isinstance(outcome.error, NodeFailed):
            assert f"{outcome.node} begins to" in outcome.error.log_tail
    assert outcome.left == {}
    # Spark lives on: the next row reserves another cluster.


def test_spark_lives_on(sc):
    with tfos_fast.reserve(sc, 2, memory="1m", slot_bytes="64k") as cluster:
        assert len(cluster.nodes) == 2


def test_the_selection_shows_every_pair():
    shown = [*pairwise(), *(row for row in ROWS if str(row) in ELSEWHERE)]
    assert set().union(*map(pairs, shown)) == set().union(*map(pairs, ROWS))
    assert len(shown) < len(ROWS) / 2
    assert set(ELSEWHERE) <= set(map(str, ROWS))
    for test in ELSEWHERE.values():
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text()
