"""Values of a manager, as programs know them from TensorFlowOnSpark, whose managers gave proxies."""

from __future__ import annotations

from typing import Any


class Text(str):
    """A text that is equal to itself without quotes, and that ``str()``, ``format`` and ``print`` show in quotes, as a proxy does.

    Programs compare ``str(mgr.get("state"))`` with ``"'terminating'"``.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return str.__repr__(self)

    def __format__(self, spec: str) -> str:
        return format(str.__repr__(self), spec)

    def _getvalue(self) -> str:
        """The text itself; proxies have this."""
        return str.__getitem__(self, slice(None))


def as_proxy(value: Any) -> Any:
    """A text as ``Text``; anything else as it is."""
    return Text(value) if type(value) is str else value
