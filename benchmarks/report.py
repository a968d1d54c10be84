"""What a run found: medians, ratios and bars, printed as they come and kept with their raw samples."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cpu import table

NOT_THERE = "not there"


@dataclass(frozen=True)
class Bar:
    """What is asked of one figure.

    Parameters
    ----------
    way, against : str
        The figure, and the one that it is measured by.
    bar : float, optional
        The ratio asked for; None prints the ratio only.
    most : bool
        The ratio may be ``bar`` at most, rather than must be that at least.
    """

    way: str
    against: str
    bar: float | None = None
    most: bool = False


@dataclass
class Case:
    """The samples of one case, and its bars.

    Parameters
    ----------
    name, title, unit : str
    samples : dict
        Way -> one figure for each repeat; an empty list for what is not there.
    bars : list of Bar
    note : str
        What a reader has to know about the figures.
    cpu : dict
        Way -> kind of process -> CPU times; empty where they were not counted.
    """

    name: str
    title: str
    unit: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    note: str = ""
    cpu: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def median(self, way: str) -> float | None:
        """Of a way's samples; None when it is not there."""
        return statistics.median(self.samples[way]) if self.samples.get(way) else None

    def compare(self, bar: Bar) -> dict[str, Any]:
        """Ratio of the medians, and whether it holds (None where there is nothing to hold)."""
        mine, other = self.median(bar.way), self.median(bar.against)
        ratio = mine / other if mine is not None and other else None
        holds = None if ratio is None or bar.bar is None else (ratio <= bar.bar if bar.most else ratio >= bar.bar)
        asked = {"bar": bar.bar, "at": "most" if bar.most else "least"}
        return {"way": bar.way, "against": bar.against, "ratio": ratio, **asked, "holds": holds}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "title": self.title,
            "unit": self.unit,
            "note": self.note,
            "ways": {way: {"median": self.median(way), "samples": values} for way, values in self.samples.items()},
            "bars": [self.compare(bar) for bar in self.bars],
            **({"cpu": self.cpu} if self.cpu else {}),
        }

    def show(self) -> None:
        """Print it."""
        print(f"\n{self.name}: {self.title} [{self.unit}]" + (f"\n  {self.note}" if self.note else ""))
        for way, values in self.samples.items():
            median = self.median(way)
            text = f"{NOT_THERE:>11}" if median is None else f"{number(median):>11}   samples {' '.join(map(number, values))}"
            print(f"  {way:34}{text}")
        for bar in self.bars:
            found = self.compare(bar)
            if found["ratio"] is None:
                continue
            asked, verdict = "", ""
            if bar.bar is not None:
                asked = f"   bar {'<=' if bar.most else '>='} {bar.bar:g}x"
                verdict = "   holds" if found["holds"] else "   MISSED"
            print(f"    {bar.way} / {bar.against} = {found['ratio']:.2f}x{asked}{verdict}")
        for line in table(self.cpu):
            print(line)
        print(end="", flush=True)


def number(value: float) -> str:
    """Four digits or so."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


class Report:
    """All cases of a run.

    Parameters
    ----------
    machine : dict
    options : dict
        How it was run.
    path : Path, optional
        The JSON file; written after every case, so that a run that is stopped leaves what it has.
    """

    def __init__(self, machine: dict[str, Any], options: dict[str, Any], path: Path | None) -> None:
        self._path = path
        self.content: dict[str, Any] = {"machine": machine, "options": options, "cases": {}, "failed": {}}

    def add(self, case: Case) -> None:
        case.show()
        self.content["cases"][case.name] = case.as_dict()
        self._write()

    def fail(self, name: str, error: Exception) -> None:
        print(f"\n{name}: FAILED, {type(error).__name__}: {error}", flush=True)
        self.content["failed"][name] = f"{type(error).__name__}: {error}"
        self._write()

    def summary(self) -> None:
        """Print how many bars hold."""
        verdicts = [bar["holds"] for case in self.content["cases"].values() for bar in case["bars"] if bar["holds"] is not None]
        failed = f"; failed: {', '.join(self.content['failed'])}" if self.content["failed"] else ""
        print(f"\n{sum(verdicts)} of {len(verdicts)} bars hold{failed}", flush=True)

    def _write(self) -> None:
        if self._path is not None:
            self._path.write_text(json.dumps(self.content, indent=1) + "\n")
