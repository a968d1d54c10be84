"""Compare every function and class before and after modules were moved: ``python scripts/compare_move.py OLD_COMMIT``.

The map of the move is ``scripts/move.json``: old module to new module, and symbols that went another way.
Docstrings and the form of imports do not count. Names that imports bind count as what they stand for.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAP = json.loads((ROOT / "scripts" / "move.json").read_text())
MODULES: dict[str, str] = MAP["modules"]
SYMBOLS: dict[str, str] = MAP.get("symbols", {})
#: Written anew: what gives the documented names their new homes.
ANEW: set[str] = set(MAP["anew"])
PACKAGE = "tfos_fast"


def moved(name: str) -> str:
    """The new dotted name of an old one, of a module or of something in a module."""
    if name in SYMBOLS:
        return f"{SYMBOLS[name]}.{name.rpartition('.')[2]}"
    head, tail = name, ""
    while head:
        if head in MODULES:
            return MODULES[head] + tail
        head, dot, last = head.rpartition(".")
        tail = dot + last + tail
    return name


def same(name: str) -> str:
    return name


class Normal(ast.NodeTransformer):
    """Replace what imports bind by what it stands for; drop imports and docstrings."""

    def __init__(self, rename, bound: dict[str, str]) -> None:
        self.rename = rename
        self.bound = bound

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self.bound.get(node.id, node.id), node.ctx)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = node.value
        if isinstance(value, str):
            value = " ".join(" ".join(self.rename(word) for word in value.split(" ")).split())
        return ast.Constant(value)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)


def bindings(tree: ast.AST, rename) -> dict[str, str]:
    """What each name that an import binds stands for."""
    bound = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                bound[alias.asname or alias.name] = rename(f"{node.module}.{alias.name}")
    return bound


def definitions(source: str, module: str, rename) -> Iterator[tuple[str, str]]:
    """The name and the normal form of each definition of a module, and of what else stands at its top."""
    tree = ast.parse(source)
    normal = Normal(rename, bindings(tree, rename))
    rest = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield rename(f"{module}.{node.name}"), ast.dump(normal.visit(node))
            continue
        kept = normal.visit(node)
        if kept is not None:
            rest.append(ast.dump(kept))
    for number, text in enumerate(sorted(rest)):
        yield f"{rename(module)}:{number}", text


def sources(commit: str | None) -> Iterator[tuple[str, str]]:
    """Each module of the package at a commit, or as it lies here, with its text."""
    names = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", commit or "HEAD", PACKAGE], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in names.split():
        if name.endswith(".py"):
            command = ["git", "show", f"{commit or 'HEAD'}:{name}"]
            text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            yield name.removesuffix(".py").removesuffix("/__init__").replace("/", "."), text.stdout


def main() -> None:
    old = {k: v for module, text in sources(sys.argv[1]) for k, v in definitions(text, module, moved)}
    new = {k: v for module, text in sources(None) for k, v in definitions(text, module, same)}
    only = sorted((old.keys() ^ new.keys()) - ANEW)
    other = sorted(k for k in old.keys() & new.keys() if old[k] != new[k] and k not in ANEW)
    for name in only:
        print("only", "before" if name in old else "after", name)
    for name in other:
        print("differs", name)
    print("equal" if not only and not other else "not equal", f"({len(old)} definitions before, {len(new)} after)")
    raise SystemExit(bool(only or other))


if __name__ == "__main__":
    main()
