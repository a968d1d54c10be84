"""What Spark's tasks tell the driver by way of a node: rows that cannot be fed, and which stages infer. Pure."""

from __future__ import annotations

from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.feed_keys import LOCAL_KEYS

MOST_UNFIT = 64  # jobs whose rows could not be fed
MOST_STAGES = 256  # that are remembered; an old one's job is over


class TaskNews:
    """The coordinator's memory of it.

    Attributes
    ----------
    unfit : dict
        Job, or stage of an inference (:func:`stage_key`) -> the first error of rows that cannot be fed: a class and its text.
    stages : dict
        Stages of inferences, in the order in which their first tasks came to a node. The values say nothing.
    """

    def __init__(self) -> None:
        self.unfit: dict[str, tuple[str, str]] = {}
        self.stages: dict[int, None] = {}

    def hear(self, message: m.Unfit | m.Infers) -> None:
        """Remember it."""
        if isinstance(message, m.Infers):
            self.stages[message.stage] = None
            _forget(self.stages, MOST_STAGES)
        else:
            self.unfit.setdefault(message.job, (message.kind, message.text))
            _forget(self.unfit, MOST_UNFIT)


def _forget(found: dict, most: int) -> None:  # type: ignore[type-arg]
    if len(found) > most:
        del found[next(iter(found))]


def stage_key(stage: int) -> str:
    """Under which tasks of an inference's stage tell of rows that cannot be fed.

    >>> stage_key(7)
    'infer/7'
    """
    return f"{LOCAL_KEYS}{stage}"


def stage_of(key: str) -> int | None:
    """The stage of an inference whose partition has this key; None: it is another one's.

    >>> stage_of("infer/7/0/a4"), stage_of("feed0/0/3")
    (7, None)
    """
    head, _, rest = key.partition("/")
    number = rest.partition("/")[0]
    return int(number) if f"{head}/" == LOCAL_KEYS and number.isdecimal() and len(number) < 19 else None
