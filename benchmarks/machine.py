"""What the figures of a benchmark were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tfos_fast


def machine(*packages: str) -> dict[str, Any]:
    """Processor, load, system and versions.

    Parameters
    ----------
    packages : str
        Distributions whose versions matter.
    """
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.machine())
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "tfos_fast": tfos_fast.__version__,
        **versions,
    }


def show(facts: dict[str, Any]) -> None:
    """Print them in one line."""
    print("; ".join(f"{name} {value}" for name, value in facts.items()))


def main() -> None:
    """Print what the benchmarks would be measured on."""
    show(machine("numpy", "pyarrow", "pyspark", "tensorflow", "pyzmq"))


if __name__ == "__main__":
    main()
