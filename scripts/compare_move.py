"""Compare every function and class before and after modules were moved: ``python scripts/compare_move.py OLD_COMMIT``.

The map of the move is ``scripts/move.json``: old module to new module, and symbols that went another way.
Docstrings and the form of imports do not count. Names of a module's own definitions and imports count as what they stand for.

It prints "equal" at the commits that only moved modules and symbols. Later commits changed definitions, and it lists these.
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
    head, tail = name, ""
    while head:
        if head in SYMBOLS:
            return f"{SYMBOLS[head]}.{head.rpartition('.')[2]}{tail}"
        if head in MODULES:
            return MODULES[head] + tail
        head, dot, last = head.rpartition(".")
        tail = dot + last + tail
    return name


def same(name: str) -> str:
    return name


class Normal(ast.NodeTransformer):
    """Replace bound names by what they stand for; drop imports and docstrings."""

    def __init__(self, rename, bound: dict[str, str]) -> None:
        self.rename = rename
        self.bound = bound

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        outer, self.bound = self.bound, {name: full for name, full in self.bound.items() if name not in assigned(node)}
        try:
            return self.generic_visit(node)
        finally:
            self.bound = outer

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in self.bound:
            return ast.Name(node.id, node.ctx)
        return ast.Name(self.rename(self.bound[node.id]), node.ctx)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        # ``module.name`` is the same as the name imported from the module.
        parts, root = [node.attr], node.value
        while isinstance(root, ast.Attribute):
            parts.append(root.attr)
            root = root.value
        if isinstance(root, ast.Name) and root.id in self.bound:
            return ast.Name(self.rename(".".join([self.bound[root.id], *reversed(parts)])), node.ctx)
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = node.value
        if isinstance(value, str):
            value = " ".join(" ".join(self.rename(word) for word in value.split(" ")).split())
        return ast.Constant(value)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)


def defined(node: ast.stmt) -> list[str]:
    """Return the names that a statement at a module's top defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
    return []


def assigned(function: ast.AST) -> set[str]:
    """Return the names that a function binds for itself, its parameters among them."""
    nodes = list(ast.walk(function))
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {node.arg for node in nodes if isinstance(node, ast.arg)}


def bindings(tree: ast.Module, module: str) -> dict[str, str]:
    """Return the full names of the package that a module's imports and definitions bind."""
    bound = {name: f"{module}.{name}" for node in tree.body for name in defined(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return bound


def definitions(source: str, module: str, rename) -> Iterator[tuple[str, str]]:
    """The name and the normal form of each definition of a module, and of what else stands at its top."""
    tree = ast.parse(source)
    normal = Normal(rename, bindings(tree, module))
    rest = []
    for node in tree.body:
        names = defined(node)
        kept = normal.visit(node)
        if names and kept is not None:
            yield rename(f"{module}.{names[0]}"), ast.dump(kept)
            continue
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
