"""docs/design/packages.svg shows every package, and each import between packages goes down in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURE = (ROOT / "docs" / "design" / "packages.svg").read_text()
HEIGHTS = {
    name: int(y) for y, name in re.findall(r'<text x="[\d.]+" y="(\d+)" text-anchor="middle"><title>([\w.]+)</title>', PICTURE)
}
FACES = {"", "channel", "cluster", "tensors", "distributed"}  # they only give names of other modules a documented place


def package(module: str) -> str:
    """Return the package of a module as the picture names it."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2] if parts[:1] in (["channel"], ["cluster"]) else parts[:1])


def imports() -> Iterator[tuple[str, str]]:
    for file in (ROOT / "tfos_fast").rglob("*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tfos_fast":
                whole = package(node.module) in FACES
                for name in node.names:
                    yield package(module), package(f"{node.module}.{name.name}" if whole else node.module)


def test_each_import_between_packages_goes_down():
    found = {(here, there) for here, there in imports() if here != there and here in HEIGHTS and there in HEIGHTS}
    assert not {(here, there) for here, there in found if HEIGHTS[here] >= HEIGHTS[there]}


def test_every_package_is_in_the_picture():
    has = {package(".".join(file.relative_to(ROOT).with_suffix("").parts)) for file in (ROOT / "tfos_fast").rglob("*.py")}
    assert HEIGHTS.keys() - {"channel.channel"} == {name for name in has if not name.endswith("__init__")} - FACES - {
        "channel.channel"
    }
