"""The keys of partitions: to which feed, job and epoch a partition belongs. And the names that a feed may have."""

from __future__ import annotations

import re

OFFERED = "offer/"  # keys of partitions of named feeds: offer/<name>/<epoch>/<partition>
LOCAL_KEYS = "infer/"  # partitions whose attempts do not share rows: their results go back to the attempt


def check_name(name: str) -> str:
    """Refuse what is no name of a feed.

    Raises
    ------
    ValueError
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
        raise ValueError(f"a feed's name has 1 to 64 letters, digits, dots, dashes and underscores; {name!r} has not")
    return name


def feed_of(key: str) -> str:
    """The name of the feed that a partition's key belongs to; empty for the default feed."""
    return key.split("/")[1] if key.startswith(OFFERED) else ""


def job_of(feed: int, epoch: int) -> str:
    """The prefix of the partitions' keys of one epoch of the default feed, when it is fed for the so manieth time."""
    return f"feed{feed}/{epoch}"


def feed_number(key: str) -> int:
    """Which feed of the default one a partition's key belongs to; -1: none."""
    found = re.match(r"feed(\d+)/", key)
    return int(found[1]) if found else -1
