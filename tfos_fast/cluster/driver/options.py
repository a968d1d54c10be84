"""The options that ``reserve`` and ``run`` share: ``reserve`` declares and documents them, ``run`` passes them on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class NodeOptions(TypedDict, total=False):
    """The keyword arguments of ``reserve``, which has their defaults. mypy compares these types with its signature."""

    num_ps: int
    master_node: str | None
    eval_node: bool
    driver_ps_nodes: bool
    memory: int | str
    slot_bytes: int | str | None
    feeds: Mapping[str, int | str] | None
    num_gpus: int | None
    release_port: bool
    tensorflow_port: int | str | None
    server_host: str | None
    server_port: int | str | None
    relay: bool | None
    reservation_timeout: float
    log_level: str


def takes_options_of(origin: Callable[..., Any]) -> Callable[[F], F]:
    """Give a function with ``**options`` the keyword arguments of ``origin``, for ``help()`` and for editors.

    The line ``**options`` in the function's docstring is replaced by the paragraphs of ``origin`` about these arguments.
    """
    options = [each for each in inspect.signature(origin).parameters.values() if each.kind is each.KEYWORD_ONLY]

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        function.__signature__ = signature.replace(parameters=own + options)  # type: ignore[attr-defined]
        if function.__doc__ and origin.__doc__:  # python -OO has none
            theirs = inspect.cleandoc(origin.__doc__)
            begin = theirs.index(f"\n{options[0].name} : ") + 1
            function.__doc__ = inspect.cleandoc(function.__doc__).replace("**options", theirs[begin : theirs.index("\n\n", begin)])
        return function

    return decorate
