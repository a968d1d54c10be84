"""Which part of a program cannot be pickled, in the words of the program: "main's global variable 'lock' (a _thread.lock)".

A part is named when it fails for the reason for which the whole fails. So a SparkContext, which refuses to be pickled, is named
itself, and not a lock somewhere inside of it.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MOST_LOOKS = 2000  # each pickles something; then the part that was found by then is named
DEEPEST = 30

_Part = tuple[str, Any]  # its path from main or args, and itself


class _Enough(Exception):
    """So many looks."""


def culprit(main: Callable[..., Any], args: Any, pickle: Callable[[Any], object]) -> tuple[str, Any]:
    """Return the innermost part that cannot be pickled, in words, and the part; no words when each part can.

    Parameters
    ----------
    main : callable
    args : object
    pickle : callable
        Raises an exception for what cannot be pickled.
    """
    search = _Search(pickle)
    found = search.first([(_name(main, "main"), main), ("args", args)])
    if found is None:
        return "", None
    with contextlib.suppress(_Enough):
        search.descend(found, 0)
    path, value = search.found
    return f"{path} ({_article(type(value))})", value


class _Search:
    def __init__(self, pickle: Callable[[Any], object]) -> None:
        self._pickle = pickle
        self._looks = 0
        self._seen: list[Any] = []  # kept, so that an id stays its own
        self.found: _Part = ("", None)

    def _fails(self, value: Any) -> str:
        """Why a value cannot be pickled; empty when it can."""
        self._looks += 1
        if self._looks > MOST_LOOKS:
            raise _Enough
        try:
            self._pickle(value)
        except Exception as error:  # noqa: BLE001  # whatever a pickler raises
            return f"{type(error).__name__}: {error}"
        return ""

    def first(self, parts: list[_Part]) -> _Part | None:
        """The first part that cannot be pickled. All are pickled together, then halves: there may be a million."""
        if not parts or not self._fails([value for _, value in parts]):
            return None
        while len(parts) > 1:
            half = parts[: len(parts) // 2]
            parts = half if self._fails([value for _, value in half]) else parts[len(parts) // 2 :]
        return parts[0]

    def descend(self, part: _Part, depth: int) -> bool:
        """Find the innermost part below one that cannot be pickled; whether there is one, and not only a loop back."""
        self.found = part
        if depth >= DEEPEST:
            return True
        self._seen.append(part[1])
        why = self._fails(part[1])
        parts = list(_parts(*part))
        new = [each for each in parts if not any(each[1] is seen for seen in self._seen)]
        loops = len(new) < len(parts)
        while (inner := self.first(new)) is not None:
            if self._fails(inner[1]) == why:
                if self.descend(inner, depth + 1):
                    return True
                loops = True
            new = new[next(i for i, each in enumerate(new) if each is inner) + 1 :]
        self.found = part
        return not loops


def _parts(path: str, value: Any) -> Iterator[_Part]:
    """What a value is made of, as far as it is pickled along."""
    if isinstance(value, types.FunctionType):
        yield from _of_function(_name(value, path), value)
    elif isinstance(value, types.MethodType):
        yield f"the object of the method {value.__name__}", value.__self__
    elif isinstance(value, functools.partial):
        yield _name(value.func, f"{path}'s function"), value.func
        yield from _parts(f"{path}'s arguments", value.args)
        yield from _parts(f"{path}'s arguments", value.keywords)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield f"{path}[{_short(key)}]", item
            yield f"the key {_short(key)} of {path}", key
    elif isinstance(value, list | tuple | set | frozenset | collections.deque):
        for i, item in enumerate(value):
            yield (f"an element of {path}" if isinstance(value, set | frozenset) else f"{path}[{i}]"), item
    elif isinstance(value, type):
        for name, item in vars(value).items():
            if not name.startswith("__") or isinstance(item, types.FunctionType):
                yield f"{path}.{name}", item.__func__ if isinstance(item, staticmethod | classmethod) else item
    else:
        if type(value).__module__ == "__main__":
            yield f"the class {type(value).__name__}", type(value)
        yield from _attributes(path, value)


def _attributes(path: str, value: Any) -> Iterator[_Part]:
    for name, item in getattr(value, "__dict__", {}).items():
        yield f"{path}.{name}", item
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            if hasattr(value, name):
                yield f"{path}.{name}", getattr(value, name)


def _of_function(name: str, function: types.FunctionType) -> Iterator[_Part]:
    for variable in sorted(_globals_of(function.__code__) & function.__globals__.keys()):
        value = function.__globals__[variable]
        if value is not function and not isinstance(value, types.ModuleType):
            yield f"{name}'s global variable {variable!r}", value
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"{name}'s outer variable {variable!r}", cell.cell_contents
        except ValueError:  # it is not set yet
            continue
    for i, value in enumerate(function.__defaults__ or (), function.__code__.co_argcount - len(function.__defaults__ or ())):
        yield f"the default of {name}'s parameter {function.__code__.co_varnames[i]!r}", value
    for parameter, value in (function.__kwdefaults__ or {}).items():
        yield f"the default of {name}'s parameter {parameter!r}", value
    for attribute, value in vars(function).items():
        yield f"{name}.{attribute}", value


def _globals_of(code: types.CodeType) -> set[str]:
    """Names that a function, and those inside of it, may look up among the globals."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _globals_of(constant)
    return names


def _name(value: Any, otherwise: str) -> str:
    if not isinstance(value, types.FunctionType):
        return otherwise
    return f"the lambda of line {value.__code__.co_firstlineno}" if value.__name__ == "<lambda>" else value.__name__


def _short(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _article(kind: type) -> str:
    name = kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
