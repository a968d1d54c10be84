"""The programs of ``examples/mnist`` as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

MNIST = Path(__file__).resolve().parents[2] / "examples" / "mnist"


def load(name: str) -> ModuleType:
    """Import one of the programs under a name that nothing else has."""
    spec = importlib.util.spec_from_file_location(f"mnist_{name}", MNIST / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def prepare() -> ModuleType:
    return load("prepare")


@pytest.fixture(scope="session")
def train() -> ModuleType:
    return load("train")


@pytest.fixture(scope="session")
def infer() -> ModuleType:
    return load("infer")


@pytest.fixture(scope="session")
def demo() -> ModuleType:
    return load("demo")
