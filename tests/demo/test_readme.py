"""The programs in the README run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)

pytestmark = [pytest.mark.spark, pytest.mark.tensorflow, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (0, r"worker:[01] found w = 3\.0"),
        (1, r"30000 rows in .*\+---(.|\n)*\|  2\|"),
        (2, r"life 1 began with 1 epochs done.*worker:0: exit status 0.*started again 1 time: .*signal 9 \(SIGKILL\)"),
        (3, r"\[1\. 2\.\] \['a' 'b'\]"),
    ],
    ids=["first", "frames", "restarted", "channel"],
)
def test_program(program, says, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAMS[program].replace("/tmp/", f"{tmp_path}/"))
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert re.search(says, done.stdout, re.DOTALL), done.stdout[-5000:]
    said = {text for text in re.findall(r"UserWarning: (.*)", done.stdout) if "ran out of data" not in text}
    assert not said  # the README says what Keras warns of, and why


def test_all_programs_are_tried():
    assert len(PROGRAMS) == 4
