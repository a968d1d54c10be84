"""The map in CONTRIBUTING.md is true: rooms, files, classes and commands are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tfos_fast"
PAGE = ROOT / "CONTRIBUTING.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="a copy without the documents")


def test_every_path_exists():
    paths = re.findall(r"`([\w./]+(?:/|\.(?:pyi?|pyx|md)))`", PAGE.read_text())
    missing = {path for path in paths if not ((PACKAGE / path).exists() or (ROOT / path).exists())}
    assert len(paths) > 80
    assert missing == {"build/sanitize"} & missing


def test_every_room_is_on_the_map():
    text = PAGE.read_text()
    rooms = [
        path.parent.relative_to(PACKAGE) for path in PACKAGE.glob("*/**/__init__.py") if len(list(path.parent.glob("*.py"))) > 1
    ]
    within = ("channel", "cluster", "native", "compat/dropin")
    rooms = [str(room) for room in rooms if str(room) not in within and not str(room).startswith(("native/", "compat/dropin/"))]
    assert len(rooms) > 20
    assert [room for room in rooms if f"`{room}/`" not in text] == []


def test_every_class_is_in_its_file():
    named = re.findall(r"((?:`\w+`(?: and )?)+) in `([\w/]+\.py)`", PAGE.read_text())
    missing = [
        (name, path)
        for names, path in named
        for name in re.findall(r"\w+", names.replace(" and ", " "))
        if not re.search(rf"^(class {name}\b|def {name}\b|{name} = )", (PACKAGE / path).read_text(), re.MULTILINE)
    ]
    assert len(named) > 10
    assert missing == []


def test_every_target_is_in_the_makefile():
    targets = set(re.findall(r"`(?:\w+=\w+ )?make ([a-z-]+)", PAGE.read_text()))
    assert targets - set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)) == set()
