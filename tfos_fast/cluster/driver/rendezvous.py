"""Where agents meet the driver: at its coordinator, or at a relay where executors cannot reach that."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from weakref import WeakSet

from tfos_fast.cluster.coordinator.coordinator import Coordinator
from tfos_fast.cluster.coordinator.relay_client import hire
from tfos_fast.cluster.host.addresses import listen_at, numeric
from tfos_fast.cluster.host.ports import parse_ports
from tfos_fast.cluster.preflight.survey import Survey
from tfos_fast.cluster.spark.engine import Engine
from tfos_fast.cluster.spark.task_slots import TaskSlots
from tfos_fast.errors import CoordinatorUnreachable, RoleError

log = logging.getLogger("tfos_fast.cluster")

# Sessions whose executors were seen not to reach this process.
_beyond: WeakSet[object] = WeakSet()


def rendezvous(
    engine: Engine,
    look: Callable[..., Survey],
    host: str | None,
    port: int | str | None,
    relay: bool | None,
    timeout: float,
    log_level: str,
    *,
    driver_nodes: bool,
) -> tuple[Coordinator, TaskSlots]:
    """Open a coordinator that executors reach, and look at these.

    Parameters
    ----------
    engine : Engine
    look : callable
        Makes a Survey of a ``coordinator``, and whether executors must ``reach`` it.
    host, port, relay : optional
        As ``reserve`` got them.
    timeout : float
        Seconds to wait for the task that starts a relay.
    log_level : str
        Of a relay.
    driver_nodes : bool
        There are nodes on the driver, which other nodes must reach.

    Raises
    ------
    RoleError
        A relay is asked for, and nodes on the driver are, too.
    TfosError
        As ``Survey.check`` has it.
    """
    host = host or os.environ.get("TFOS_SERVER_HOST")
    ports = parse_ports(port if port is not None else os.environ.get("TFOS_SERVER_PORT"), "server_port (TFOS_SERVER_PORT)")
    if relay is None and (told := os.environ.get("TFOS_RELAY", "")):
        relay = told.lower() not in ("0", "false", "no")
    if relay and driver_nodes:
        raise RoleError(
            "driver_ps_nodes=True puts parameter servers on the driver, where the other nodes must reach them, and relay=True "
            "(TFOS_RELAY) says that they cannot; leave out one of the two"
        )
    may = relay is None and not engine.rdds and not driver_nodes
    coordinator = _listen(engine, host, ports)
    try:
        if not relay and not (may and engine.key in _beyond):
            try:
                return coordinator, look(coordinator=coordinator).check()
            except CoordinatorUnreachable as error:
                if not may:
                    raise
                log.info("%s", error)
                _beyond.add(engine.key)
        # The relay is a program of ours: executors that lack this package must have got it.
        look(coordinator=coordinator, reach=False).check()
        where, _, number = coordinator.keys.endpoint.removeprefix("tcp://").rpartition(":")
    except BaseException:
        coordinator.close()
        raise
    coordinator.close()
    coordinator = Coordinator("", "", entrance=hire(engine, (where, int(number)), ports, log_level, timeout))
    try:
        return coordinator, look(coordinator=coordinator).check()
    except BaseException:
        coordinator.close()
        raise


def _listen(engine: Engine, host: str | None, ports: Sequence[int]) -> Coordinator:
    bind, advertise = front(engine, host)
    setting = "server_host (TFOS_SERVER_HOST)" if host else "spark.driver.bindAddress (or spark.driver.host)"
    return listen_at(bind, setting, lambda address: Coordinator(address, advertise, ports))


def front(engine: Engine, host: str | None = None) -> tuple[str, str]:
    """Return the address at which this program listens, and the one that executors know: ``host``, or what Spark's settings say.

    Raises
    ------
    SettingRefused
        Executors know this program by an IPv6 address.
    """
    bind, advertise = (host, host) if host else engine.front()
    numeric(advertise, "server_host (TFOS_SERVER_HOST)" if host else "spark.driver.host")
    return bind, advertise
