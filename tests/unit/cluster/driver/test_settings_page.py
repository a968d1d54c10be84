"""docs/settings.md names every option, environment variable and Spark setting that the code reads, and no other."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tfos_fast

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs" / "settings.md").read_text()
FILES = [*sorted((ROOT / "tfos_fast").rglob("*.py")), ROOT / "setup.py"]


def table(title: str) -> dict[str, list[str]]:
    """Return the tables below this title: the name in a row's first cell -> its other cells."""
    (section,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line.startswith("| `")]
    found = {row[0].strip(" `"): row[1:] for row in rows}
    assert len(found) == len(rows)
    return found


def constants(tree: ast.AST) -> dict[str, str]:
    """Return the names in a module that stand for one text."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            names, values = (each.elts if isinstance(each, ast.Tuple) else [each] for each in (node.targets[0], node.value))
            if len(names) == len(values):
                found |= {
                    ast.unparse(name): value.value
                    for name, value in zip(names, values, strict=True)
                    if isinstance(value, ast.Constant) and isinstance(value.value, str)
                }
    return found


def keys(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield each mapping that the code reads, with the key."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
            yield node.func.value, node.args[0]
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            yield node.value, node.slice
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            yield node.comparators[0], node.left


def environment_variables() -> set[str]:
    found = set()
    for file in FILES:
        tree = ast.parse(file.read_text())
        texts = constants(tree)
        for mapping, key in keys(tree):
            if re.search(r"(environ|environment)$", ast.unparse(mapping)):
                name = key.value if isinstance(key, ast.Constant) else texts[ast.unparse(key)]
                found.add(name)
    return found


def spark_settings() -> set[str]:
    return {
        node.value
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"spark\.[\w.]+", node.value)
    }


@pytest.mark.parametrize("function", ["run", "reserve"])
def test_every_option_is_on_the_page_with_its_default(function):
    parameters = inspect.signature(getattr(tfos_fast, function)).parameters.values()
    has = {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    shown = {name: cells[1].strip("`") for name, cells in table("Options").items() if function in cells[0]}
    assert shown == {name: re.sub(r"<(.*):.*>", r"\1", repr(default)).replace("'", '"') for name, default in has.items()}


def test_every_environment_variable_is_on_the_page():
    assert table("Environment variables").keys() == environment_variables()


def test_every_spark_setting_is_on_the_page():
    assert table("Settings of Spark").keys() == spark_settings()
