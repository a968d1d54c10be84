"""``reserve`` and ``run``: from a SparkContext to a cluster of nodes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tfos_fast.channel.host.segment import parse_bytes
from tfos_fast.cluster.driver.cluster import Cluster, check_restarts
from tfos_fast.cluster.driver.options import NodeOptions, takes_options_of
from tfos_fast.cluster.driver.rendezvous import rendezvous
from tfos_fast.cluster.driver.seconds import seconds
from tfos_fast.cluster.driver.stop_nodes import stop_agents
from tfos_fast.cluster.driver.watch import InputMode
from tfos_fast.cluster.host.ports import parse_ports
from tfos_fast.cluster.launch import driver_nodes as drivernodes
from tfos_fast.cluster.launch import gpus
from tfos_fast.cluster.launch.reserve_task import UNFED_MEMORY, Reservation, pickle_main
from tfos_fast.cluster.preflight.survey import Survey
from tfos_fast.cluster.protocol import handover as h
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.failures import check_started, job_exception
from tfos_fast.cluster.protocol.feed_keys import check_name
from tfos_fast.cluster.protocol.identity import this_process
from tfos_fast.cluster.protocol.roles import assign
from tfos_fast.cluster.spark.jobs import SparkJob
from tfos_fast.cluster.spark.placement import spreading_profile
from tfos_fast.cluster.spark.select import engine_of

if TYPE_CHECKING:
    from typing_extensions import Unpack  # of the standard library since Python 3.11

log = logging.getLogger("tfos_fast.cluster")


def reserve(
    sc: Any,
    num_executors: int,
    *,
    num_ps: int = 0,
    master_node: str | None = None,
    eval_node: bool = False,
    driver_ps_nodes: bool = False,
    memory: int | str = "256m",
    slot_bytes: int | str | None = None,
    feeds: Mapping[str, int | str] | None = None,
    num_gpus: int | None = None,
    release_port: bool = True,
    tensorflow_port: int | str | None = None,
    server_host: str | None = None,
    server_port: int | str | None = None,
    relay: bool | None = None,
    reservation_timeout: float = 60.0,
    log_level: str = "WARNING",
) -> Cluster:
    """Reserve nodes: one agent process with its shared memory each, on an executor of its own as far as there are so many.

    Parameters
    ----------
    sc : SparkContext or SparkSession
        The session may be one of Spark Connect.
    num_executors : int
        Number of nodes, of all roles.
    num_ps : int
        Of these nodes, parameter servers. They are not fed, and run until the others have ended.
    master_node : {"chief", "master"}, optional
        Gives one node that role: ``"chief"`` for TensorFlow 2, ``"master"`` for TensorFlow 1. It trains as workers do.
    eval_node : bool
        One node is an evaluator: not fed, in nobody's ``cluster_spec``, and it runs until the others have ended.
    driver_ps_nodes : bool
        Parameter servers run on the driver and need no executors.
    memory : int or str
        Bytes of shared memory of each node, such as ``"256m"``. Taken at once, never more.
    slot_bytes : int or str, optional
        Bytes of one slot of that memory; the largest row must fit into one. Default: a sixteenth of it, up to 16 MiB.
    feeds : mapping, optional
        Name of a named feed -> its bytes of shared memory on each node, beside ``memory``. Taken when the feed is first used; a
        named feed that is not in here takes a quarter of ``memory``, at least four slots.
    num_gpus : int, optional
        As many GPUs for each node and no more. Default: all that Spark gave to its task (``spark.executor.resource.gpu.amount``);
        without such resources an equal share of those that CUDA_VISIBLE_DEVICES of the executors, else nvidia-smi, shows on the
        node's host, and none in a Kubernetes pod. ``main`` finds them in CUDA_VISIBLE_DEVICES.
    release_port : bool
        Each node's port in ``cluster_spec`` is held from the reservation on. True: TensorFlow's server can bind it when ``main``
        runs, other programs cannot. False: nobody can before ``main`` calls ``ctx.release_port()``.
    tensorflow_port : int or str, optional
        That port, ``9997``, or a range to choose from, ``"9997-9999"``; default: TENSORFLOW_PORT in the executor's environment,
        or any.
    server_host, server_port : optional
        Host name or address, and port or range of ports, at which executors reach the driver; default: TFOS_SERVER_HOST and
        TFOS_SERVER_PORT in the driver's environment, or ``spark.driver.host`` and any port. With Spark Connect it is this
        client that they must reach, by default at its address on the server's network.
    relay : bool, optional
        True: executors connect to a relay, a process beside one of them to which the driver connects; ``server_port`` is then one
        of that host. Default: TFOS_RELAY in the driver's environment, or only with Spark Connect and where the look at the
        executors has shown that one cannot reach the driver.
    reservation_timeout : float
        Seconds to wait for executors to register, for the nodes to come up, and later for ``main`` to start.
    log_level : str
        Of the agents and trainers; their logs are in the executors' stderr.

    Returns
    -------
    Cluster
        Without a program yet; see :meth:`Cluster.start`.

    Raises
    ------
    NotEnoughSlots
        Spark has fewer task slots than nodes are asked for.
    UnevenExecutors
        There are as many executors as nodes, but they differ in cores, so that Spark cannot put one node on each.
    RoleError
        Roles and number of nodes do not go together.
    PortUnavailable
    NotEnoughGpus
        A host has GPUs, but not as many as ``num_gpus`` wants.
    NotEnoughMemory
        The shared memory does not fit on some executor.
    SettingRefused, VersionMismatch, MissingDependency, CoordinatorUnreachable
        Spark's settings or its executors are not fit for nodes; known before anything is started.
    PreflightFailed
        Several of these at once.
    ClusterTimeout
    """
    reservation_timeout = seconds(reservation_timeout, "reservation_timeout")
    if num_gpus is not None and num_gpus < 0:
        raise ValueError(f"num_gpus must be 0 or more, or None, not {num_gpus}")
    roles = assign(num_executors, num_ps, master_node, eval_node)
    on_driver, on_executors = (roles[:num_ps], roles[num_ps:]) if driver_ps_nodes else ((), roles)
    parse_ports(tensorflow_port, "tensorflow_port")
    if feeds is not None and not isinstance(feeds, Mapping):
        raise ValueError(f"feeds={feeds!r} is no mapping: it says the memory of each named feed, such as {{'validation': '64m'}}")
    engine = engine_of(sc)
    engine.check()
    wanted = parse_bytes(memory)  # said here rather than by each node
    if slot_bytes is not None:
        parse_bytes(slot_bytes, "slot_bytes")
    quotas = {check_name(name): str(size) for name, size in (feeds or {}).items()}
    for name, size in quotas.items():
        parse_bytes(size, f"feeds[{name!r}]")
    count = len(on_executors)
    fed = sum(role.fed for role in on_executors)  # the others need next to no memory
    look = functools.partial(Survey, engine, nodes=count, memory=wanted * fed // max(count, 1), timeout=reservation_timeout)
    coordinator, slots = rendezvous(
        engine, look, server_host, server_port, relay, reservation_timeout, log_level, driver_nodes=bool(on_driver)
    )
    try:
        profile = spreading_profile(engine, slots, count)
    except BaseException:
        coordinator.close()
        raise
    slot = None if slot_bytes is None else str(slot_bytes)
    # All of local-cluster is on one host: nobody else has anything to look for at its nodes.
    listen: Literal["", "loopback", "network"] = "network"
    if slots.local or engine.master.startswith("local-cluster"):
        listen = "" if slots.local else "loopback"
    port = "" if tensorflow_port is None else str(tensorflow_port)
    task = Reservation(
        coordinator.keys,
        this_process(),
        on_executors,
        str(memory),
        slot,
        quotas,
        log_level,
        listen,
        port=port,
        release_port=release_port,
    )

    def action() -> list[bytes]:
        return engine.run(task, range(count), barrier=True, profile=profile)

    try:
        job = SparkJob(engine, f"reserve {count} nodes", action, coordinator.changed)
        try:
            here = drivernodes.spawn(task, on_driver)
            who = f"the driver waits for Spark to run {count} tasks at once, which bring up the nodes (reservation_timeout)"
            coordinator.wait(lambda: job.done, reservation_timeout, who)
        except BaseException:
            job.cancel()
            raise
        if job.error is not None:
            raise job_exception(job.error)
        answers = [msgspec.json.decode(answer, type=h.Ready) for answer in [*here, *job.result]]
        for answer in answers:
            check_started(answer)
        nodes = _with_gpus([answer.node for answer in answers if answer.node is not None], num_gpus)
        coordinator.expect({node.name: node.token for node in nodes})
        coordinator.wait(
            lambda: all(node.name in coordinator.nodes for node in nodes),
            reservation_timeout,
            f"the driver waits for the agents to connect to {coordinator.keys.endpoint} (spark.driver.host)",
        )
    except BaseException:
        stop_agents(coordinator)
        coordinator.close()
        raise
    return Cluster(engine, coordinator, nodes, slots, log_level=log_level, start_timeout=reservation_timeout)


@takes_options_of(reserve)
def run(
    sc: Any,
    main: Callable[..., Any],
    args: Any,
    num_executors: int,
    *,
    input_mode: InputMode = InputMode.SPARK,
    tensorboard: bool = False,
    log_dir: str | None = None,
    max_restarts: int = 0,
    restart: Literal["node", "group"] = "node",
    **options: Unpack[NodeOptions],
) -> Cluster:
    """Reserve nodes and start ``main(args, ctx)`` on each.

    Parameters
    ----------
    sc : SparkContext or SparkSession
        The session may be one of Spark Connect.
    main : callable
        ``main(args, ctx)``; runs in a process of its own on each node. What it prints is in the executor's stderr (with
        ``local[N]``, in the driver's).
    args : object
        Given to ``main``; a list also becomes its ``sys.argv``.
    num_executors : int
        Number of nodes, of all roles.
    input_mode : InputMode
        SPARK: Spark feeds the chief or master and the workers. TENSORFLOW: ``main`` reads its data itself, nodes have no memory for
        a feed, and shutdown waits for ``main``.
    tensorboard : bool
        Run TensorBoard beside ``main`` at the chief or master, or the first worker; ``cluster.tensorboard_url()`` tells where.
        TENSORBOARD_PORT in the executors' environment says at which port, or range of ports.
    log_dir : str, optional
        Its folder of logs, relative to the folder in which ``main`` runs; default ``tensorboard_<executor_id>`` there.
    max_restarts : int
        So often ``main`` is started again when it has failed, to go on from its own checkpoint; see :meth:`Cluster.start`.
    restart : {"node", "group"}
        The node alone, or all nodes together.
    **options

    Returns
    -------
    Cluster
        Best used in a ``with`` block, which shuts it down.

    Raises
    ------
    NotEnoughSlots, NotEnoughMemory, MainNotPicklable, NodeFailed, ClusterTimeout
        See :func:`reserve` and :meth:`Cluster.start`.

    Examples
    --------
    >>> with tfos_fast.run(sc, main, args, num_executors=2, memory="1g") as cluster:   # doctest: +SKIP
    ...     print(cluster.feed(rdd, epochs=3))
    """
    check_restarts(max_restarts, restart)
    engine = engine_of(sc)
    engine.check()
    packed = pickle_main(engine, main, args)  # before anything is reserved
    if input_mode is InputMode.TENSORFLOW:
        options["memory"], options["slot_bytes"] = UNFED_MEMORY
    cluster = reserve(sc, num_executors, **options)
    try:
        cluster._start(
            packed, input_mode=input_mode, tensorboard=tensorboard, log_dir=log_dir, max_restarts=max_restarts, restart=restart
        )
    except BaseException:
        cluster.abort()
        raise
    return cluster


def _with_gpus(nodes: list[m.NodeInfo], num_gpus: int | None) -> tuple[m.NodeInfo, ...]:
    """The nodes with the GPUs that their trainers are to see, in the place of those that they found."""
    for node in nodes:
        if "failed" in node.gpu_source:
            log.warning("%s on %s gets no GPU: %s", node.name, node.host, node.gpu_source)
    # A ps on the driver has not looked, and gets none.
    found = [gpus.Found(node.name, node.agent.machine, node.gpus, node.gpu_source) for node in nodes if node.gpu_source]
    given = gpus.assign(found, num_gpus)
    return tuple(msgspec.structs.replace(node, gpus=given.get(node.name, ())) for node in nodes)
