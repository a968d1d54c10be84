"""``run`` takes the options of ``reserve``, and ``help()`` of both describes each one."""

from __future__ import annotations

import inspect

import pytest

import tfos_fast
from tfos_fast.cluster.driver.options import NodeOptions


def options(function) -> dict[str, inspect.Parameter]:
    return {name: each for name, each in inspect.signature(function).parameters.items() if each.kind is each.KEYWORD_ONLY}


def test_run_takes_every_option_of_reserve_with_its_default():
    shared = options(tfos_fast.reserve)
    assert shared.items() <= options(tfos_fast.run).items()
    assert set(shared) == set(NodeOptions.__annotations__)


@pytest.mark.parametrize("function", [tfos_fast.reserve, tfos_fast.run])
def test_help_describes_every_option(function):
    words = inspect.getdoc(function).partition("Returns\n")[0]
    described = {name.strip() for line in words.splitlines() if " : " in line for name in line.partition(" : ")[0].split(",")}
    parameters = set(inspect.signature(function).parameters)
    assert parameters <= described
    assert "**options" not in words
