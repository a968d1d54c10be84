"""One entry for every benchmark: ``python -m benchmarks PROGRAM``; ``--help`` after the name tells more."""

from __future__ import annotations

import importlib
import sys

PROGRAMS = {
    "feed": "feeding a cluster against Spark's own iteration",
    "pack": "the packer against pickle and numpy, row by row",
    "parts": "what a feed cannot do without, each part alone",
    "channel": "the channel against memcpy and multiprocessing.Queue",
    "detection": "how long until the driver knows of a death",
    "remote": "the remote feed against a bare CURVE socket",
    "scale": "the coordinator with 10, 100 and 1000 simulated nodes",
    "machine": "what the figures are measured on",
}


def main() -> None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name not in PROGRAMS:
        listed = "\n".join(f"  {program:10}{what}" for program, what in PROGRAMS.items())
        print(f"usage: python -m benchmarks PROGRAM [--help]\n\n{listed}")
        raise SystemExit(name not in ("-h", "--help"))
    sys.argv = [f"python -m benchmarks {name}", *arguments]
    importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
