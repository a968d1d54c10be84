"""Points inside the library, for processes that run nothing of the tests. Python imports this when it is in the path."""

from __future__ import annotations

import functools
import os
import sys
from importlib.machinery import PathFinder


def _before(owner, name, call):
    """``call`` comes first whenever ``owner.name`` is called."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapper(*args, **kwargs):
        call()
        return original(*args, **kwargs)

    setattr(owner, name, wrapper)


def _reach(who, when):
    from tests.failures import points

    points.reach(who, when)


def _raise_if_told():
    from tests.failures import points

    if points.read(points.RAISE) == os.getpid():
        raise points.Planned("planned for agent")


def _launch(module):
    _before(module.Reservation, "__call__", lambda: _reach("worker", "reserve"))
    _before(module.StartMain, "__call__", lambda: _reach("worker", "start"))


HOOKS = {
    "tfos_fast.cluster.launch.reserve_task": _launch,
    # Asked by an agent only, when it has its segment and has not answered yet.
    "tfos_fast.cluster.protocol.identity": lambda module: _before(module, "address_towards", lambda: _reach("agent", "reserve")),
    # Asked by an agent once a second.
    "tfos_fast.channel.broker.broker": lambda module: _before(module.Broker, "status", _raise_if_told),
}


class _Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in HOOKS:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            original = spec.loader.exec_module

            def exec_module(module):
                original(module)
                HOOKS[name](module)

            spec.loader.exec_module = exec_module
        return spec


if "TFOS_FAILURES" in os.environ:
    sys.meta_path.insert(0, _Finder)
