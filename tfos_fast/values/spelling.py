"""For errors: the names that a misspelt one may stand for. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def meant(unknown: Iterable[str], there: Iterable[str]) -> str:
    """Return ``"; did you mean 'label'?"`` for misspelt names; empty when no name is near. Upper and lower case count alike."""
    names = list(there)
    lower: dict[str, str] = {}
    for name in names:
        lower.setdefault(name.lower(), name)
    near = [lower[close[0]] for name in unknown if (close := get_close_matches(name.lower(), list(lower), 1))]
    return f"; did you mean {', '.join(map(repr, near))}?" if near else ""


def quoted(names: Iterable[str]) -> str:
    """Return the names as a message lists them: ``'x', 'y'``."""
    return ", ".join(map(repr, names))
