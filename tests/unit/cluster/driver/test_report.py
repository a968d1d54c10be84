"""docs/reports.md names every attribute of reports and errors, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_type_hints

import pytest

from tfos_fast import errors
from tfos_fast.cluster.driver.report import FeedReport, NodeReport, ShutdownReport

PAGE = (Path(__file__).parents[4] / "docs" / "reports.md").read_text()


def table(title: str) -> list[list[str]]:
    """The cells of the rows below this title, without backquotes."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(title + "\n")]
    rows = [re.split(r"(?<!\\) \| ?", line.strip("|").strip()) for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip(" `").replace("\\|", "|") for cell in row] for row in rows]


def shown(kind: object) -> str:
    """A type as annotations in the source have it."""
    return kind.__name__ if type(kind) is type else re.sub(r"\b[\w.]+\.(\w+)", r"\1", str(kind))


@pytest.mark.parametrize("report", [FeedReport, ShutdownReport, NodeReport])
def test_every_attribute_of_a_report_is_on_the_page(report):
    has = {name: shown(kind) for name, kind in get_type_hints(report).items()}
    for name, value in vars(report).items():
        if isinstance(value, property):
            has[name] = shown(get_type_hints(value.fget)["return"])
    assert {row[0]: row[1] for row in table(report.__name__)} == has


def test_every_attribute_of_an_error_is_on_the_page():
    has = {(name, "TfosError") for name in errors.TfosError.__annotations__}
    for kind, of in ((errors.NodeFailed, " and below"), (errors.NodeKilled, " and below"), (errors.PreflightFailed, "")):
        new = vars(kind("it failed")).keys() - {name for name, _ in has}
        has |= {(name, kind.__name__ + of) for name in new}
    for kind in vars(errors).values():  # those of another class would have to be told, too
        if isinstance(kind, type) and issubclass(kind, errors.TfosError) and kind not in (errors.NodeLost,):
            assert "__init__" not in vars(kind) or kind.__name__ in {of.split()[0] for _, of in has}
    assert {(row[0], row[1].replace("`", "")) for row in table("Errors")} == has


def test_every_report_is_on_the_page():
    from tfos_fast.cluster.driver import report

    classes = {name for name, kind in vars(report).items() if isinstance(kind, type) and kind.__module__ == report.__name__}
    assert classes == {FeedReport.__name__, ShutdownReport.__name__, NodeReport.__name__}
