"""Each source file that a document, docstring or comment names lies where the name says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`([\w./]*\w\.(?:pyx?|pyi|pxd|h))`")
FOLDERS = ("tfos_fast", "src_cython", "benchmarks", "tests", "docs", "examples", "scripts")
SUFFIXES = (".md", ".py", ".pyi", ".pyx", ".pxd", ".h")

#: Programs of TensorFlowOnSpark, and a module of Python: they lie elsewhere.
OTHERS = frozenset(
    ["stop_streaming.py", "mnist_data_setup.py", "Lib/pickletools.py"]
    + [f"{folder}{name}.py" for folder in ("", "spark/", "keras/") for name in ("mnist_dist", "mnist_spark", "mnist_inference")]
    + ["mnist_tf.py", "mnist_tf_ds.py"]
)

pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="a copy without the documents")


def texts() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    for folder in FOLDERS:
        yield from (path for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES)


def places(path: Path) -> list[Path]:
    """Where a file that this one names may lie: beside it, or below a root that readers know."""
    below = [ROOT, ROOT / "tfos_fast", ROOT / "src_cython" / "tfos_fast", ROOT / "tests", ROOT / "examples"]
    if path.is_relative_to(ROOT / "src_cython"):
        below.append(ROOT / path.parent.relative_to(ROOT / "src_cython"))
    elif path.is_relative_to(ROOT / "tfos_fast"):
        below.append(ROOT / "src_cython" / path.parent.relative_to(ROOT))
    return [path.parent, *below]


def test_files_that_are_named_are_there():
    found = {(path, name) for path in texts() for name in NAMED.findall(path.read_text())}
    assert len(found) > 200
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path, name in found
        if name not in OTHERS and not any((place / name).exists() for place in places(path))
    }
    assert missing == set()
