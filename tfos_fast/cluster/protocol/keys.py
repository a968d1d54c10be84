"""What both sides of the coordinator's socket have: the keys that an agent needs, and the limits of a connection."""

from __future__ import annotations

from dataclasses import dataclass, field

HEARTBEAT = 2.0  # seconds
SILENCE = 8.0  # seconds after which a connection without an answer is closed
MAX_MESSAGE = 2 << 20  # bytes; a long traceback is the largest thing that an agent says
HELD = 100_000  # messages that wait between a driver and its relay


@dataclass(frozen=True)
class ClusterKeys:
    """What an agent needs to connect: sent only inside Spark's closures."""

    endpoint: str
    server_public: bytes
    client_public: bytes
    client_secret: bytes = field(repr=False)
