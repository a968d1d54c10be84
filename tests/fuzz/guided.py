"""The decoder under libFuzzer, which keeps what reaches new code: ``make fuzz-guided SECONDS=600`` builds everything for it.

The first bytes of an input choose a stream that is loaded before it and the packers; the rest is the stream. Inputs that reach new
code are kept in a folder, and a later run begins with them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

from tests.fuzz.stream import Target

CHOICES = 3


def main() -> None:
    target = Target()

    def one(data: bytes) -> None:
        earlier, *chosen = data[:CHOICES].ljust(CHOICES, b"\0")
        target.attack(
            data[CHOICES:],
            target.streams[earlier % len(target.streams)],
            [target.packers[number % len(target.packers)] for number in chosen],
        )

    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, stream in enumerate(target.streams):
        for packer in range(len(target.packers)):
            if (number + packer) % 17 == 0:
                (corpus / f"sound-{number}-{packer}").write_bytes(bytes([number, packer, packer + 1]) + stream)
    atheris.Setup(sys.argv, one, enable_python_coverage=False)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
