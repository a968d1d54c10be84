"""Nodes on the driver: parameter servers that need no executor (``driver_ps_nodes``)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tfos_fast.channel import Channel
from tfos_fast.cluster.launch.reserve_task import Reservation, StartMain, spawn_agent
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.roles import Role


def spawn(reservation: Reservation, roles: Iterable[Role]) -> list[bytes]:
    """Spawn the agents of these nodes as children of the driver; gives their answers."""
    configs = [reservation.config(role, reservation.driver) for role in roles]
    if not configs:
        return []
    with ThreadPoolExecutor(len(configs)) as threads:
        return list(threads.map(spawn_agent, configs))


def hand_over(start_main: StartMain, nodes: Iterable[m.NodeInfo], broadcasts: Iterable[Any]) -> None:
    """Hand ``main`` to nodes on the driver, with the driver's folder, module path and environment."""
    variables = {variable._jbroadcast.id(): variable for variable in broadcasts}
    for node in nodes:
        with contextlib.closing(Channel.attach(node.address)) as channel:
            start_main.hand(channel, node, variables)
