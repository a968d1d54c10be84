"""What the makers of values have in common: a budget of memory, names, values that wait for their state, and a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn


class Refused(Exception):
    """The stream is no plain data, or costs more memory than its length allows."""


class Budget:
    """Bytes of memory that a value, or several, may still take."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def spend(self, count: int) -> None:
        """Charge so many bytes.

        Raises
        ------
        Refused
        """
        self.left -= count
        if self.left < 0:
            raise Refused("its values take many times more memory than the stream is long")


class Name:
    """A name in a stream. It never is a value: whoever pickles a container that holds it finds out.

    Parameters
    ----------
    text : str
        For messages.
    make : callable, optional
        ``make(args, budget)`` for a REDUCE; without it the name is only an argument.
    new : callable, optional
        ``new()`` for a NEWOBJ without arguments.
    """

    __slots__ = ("make", "new", "text")

    def __init__(self, text: str, make: Callable[[tuple[Any, ...], Budget], Any] | None = None, new: Any = None) -> None:
        self.text = text
        self.make = make
        self.new = new

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise Refused(f"it holds {self.text} itself")


class Pending:
    """A value before its BUILD; the state completes it. ``place`` is its number in the memo, if it has one."""

    __slots__ = ("place",)

    def __init__(self) -> None:
        self.place = -1

    def build(self, state: Any, budget: Budget) -> Any:
        """Make the value."""
        raise NotImplementedError

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise Refused("it holds a value without its state")


def check(sound: object, what: str) -> None:
    """Refuse arguments that are not as they should be.

    Raises
    ------
    Refused
    """
    if not sound:
        raise Refused(f"it has {what} with arguments that pickle does not write")


def are_types(args: tuple[Any, ...], *kinds: Any) -> bool:
    """Whether the arguments are exactly of these types; each may be a tuple of several."""
    return len(args) == len(kinds) and all(
        type(arg) in (kind if isinstance(kind, tuple) else (kind,)) for arg, kind in zip(args, kinds, strict=True)
    )
