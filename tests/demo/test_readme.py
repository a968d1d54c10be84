"""The whole programs in the README and in docs/ run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def programs() -> dict[str, str]:
    """Return each program by its page and its number there."""
    return {
        f"{page.stem}-{number}": textwrap.dedent(block[2])
        for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
        for number, block in enumerate(BLOCK.finditer(page.read_text()))
    }


PROGRAMS = programs()
WHOLE = {
    "README-0": r"worker:[01] found w = 3\.000",
    "README-1": r"worker:[01] has w = 3\.000.*worker:[01] has w = 3\.000",
    "dataframes-0": r"30000 rows in .*\+---(.|\n)*\|  2\|",
    "restarts-0": r"life 1 began with 1 epochs done.*worker:0: exit status 0.*started again 1 time: .*signal 9 \(SIGKILL\)",
    "without-spark-0": r"\[1\. 2\.\] \['a' 'b'\]",
}

pytestmark = [pytest.mark.spark, pytest.mark.tensorflow, pytest.mark.timeout(300)]


def output(program: str, folder: Path) -> str:
    """Run the program and return what it prints."""
    (folder / "program.py").write_text(program.replace("/tmp/", f"{folder}/"))
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-5000:]
    said = {text for text in re.findall(r"UserWarning: (.*)", done.stdout) if "ran out of data" not in text}
    assert not said  # the page says what Keras warns of, and why
    return done.stdout


@pytest.mark.parametrize("name", WHOLE)
def test_whole_program(name, tmp_path):
    printed = output(PROGRAMS[name], tmp_path)
    assert re.search(WHOLE[name], printed, re.DOTALL), printed[-5000:]


def test_every_whole_program_is_tried():
    whole = {name for name, program in PROGRAMS.items() if re.search(r"getOrCreate\(\)|Channel\.create\(", program)}
    assert whole == WHOLE.keys()
