"""``reserve`` and ``run``: from a SparkContext to a cluster of nodes."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tfos_fast import errors
from tfos_fast.channel.segment import parse_bytes
from tfos_fast.cluster import gpus
from tfos_fast.cluster import messages as m
from tfos_fast.cluster.cluster import Cluster
from tfos_fast.cluster.coordinator import Coordinator
from tfos_fast.cluster.ending import stop_agents
from tfos_fast.cluster.jobs import SparkJob, job_exception
from tfos_fast.cluster.launch import Reservation
from tfos_fast.cluster.machine import this_process
from tfos_fast.cluster.named import check_name
from tfos_fast.cluster.placement import spreading_profile
from tfos_fast.cluster.survey import Survey
from tfos_fast.cluster.watching import InputMode
from tfos_fast.errors import ClusterError

log = logging.getLogger("tfos_fast.cluster")


def reserve(
    sc: Any,
    num_executors: int,
    *,
    memory: int | str = "256m",
    slot_bytes: int | str | None = None,
    feeds: Mapping[str, int | str] | None = None,
    num_gpus: int | None = None,
    reservation_timeout: float = 60.0,
    log_level: str = "WARNING",
) -> Cluster:
    """Reserve nodes: one agent process with its shared memory each, on an executor of its own as far as there are so many.

    Parameters
    ----------
    sc : SparkContext or SparkSession
    num_executors : int
        Number of nodes.
    memory : int or str
        Bytes of shared memory of each node, such as ``"256m"``. Taken at once, never more.
    slot_bytes : int or str, optional
        Bytes of one slot of that memory; the largest row must fit into one.
    feeds : mapping, optional
        Name of a named feed -> its bytes of shared memory on each node, beside ``memory``. Taken when the feed is first used; a
        named feed that is not in here takes a quarter of ``memory``, at least four slots.
    num_gpus : int, optional
        As many GPUs for each node and no more. Default: all that Spark gave to its task (``spark.executor.resource.gpu.amount``);
        without such resources an equal share of those that CUDA_VISIBLE_DEVICES of the executors, else nvidia-smi, shows on the
        node's host, and none in a Kubernetes pod. ``main`` finds them in CUDA_VISIBLE_DEVICES.
    reservation_timeout : float
        Seconds to wait for executors to register and for the nodes to come up.
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
    if num_gpus is not None and num_gpus < 0:
        raise ValueError(f"num_gpus must be 0 or more, or None, not {num_gpus}")
    if num_executors < 1:
        raise ValueError(f"num_executors must be 1 or more, not {num_executors}")
    sc = getattr(sc, "sparkContext", sc)
    if not hasattr(sc, "_jsc"):
        raise TypeError(f"a SparkContext (or SparkSession) is needed, not {sc!r:.200}")
    wanted = parse_bytes(memory)  # said here rather than by each node
    if slot_bytes is not None:
        parse_bytes(slot_bytes, "slot_bytes")
    quotas = {check_name(name): str(size) for name, size in (feeds or {}).items()}
    for name, size in quotas.items():
        parse_bytes(size, f"feeds[{name!r}]")
    coordinator = _coordinator(sc)
    try:
        slots = Survey(sc, coordinator, num_executors, wanted, reservation_timeout).check()
    except BaseException:
        coordinator.close()
        raise
    slot = None if slot_bytes is None else str(slot_bytes)
    task = Reservation(coordinator.keys, this_process(), str(memory), slot, quotas, log_level)

    def action() -> list[bytes]:
        rdd = sc.parallelize(range(num_executors), num_executors).barrier().mapPartitionsWithIndex(task)
        profile = spreading_profile(sc, slots, num_executors)
        return (rdd.withResources(profile) if profile is not None else rdd).collect()

    try:
        job = SparkJob(sc, f"reserve {num_executors} nodes", action, coordinator.changed)
        try:
            who = f"the driver waits for Spark to run {num_executors} tasks at once, which bring up the nodes (reservation_timeout)"
            coordinator.wait(lambda: job.done, reservation_timeout, who)
        except BaseException:
            job.cancel()
            raise
        if job.error is not None:
            raise job_exception(job.error)
        answers = [msgspec.json.decode(answer, type=m.Ready) for answer in job.result]
        for answer in answers:
            if answer.node is None:
                raise getattr(errors, answer.kind, ClusterError)(answer.text)
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
    return Cluster(sc, coordinator, nodes, slots, log_level=log_level, start_timeout=reservation_timeout)


def run(
    sc: Any,
    main: Callable[..., Any],
    args: Any,
    num_executors: int,
    *,
    input_mode: InputMode = InputMode.SPARK,
    memory: int | str = "256m",
    slot_bytes: int | str | None = None,
    feeds: Mapping[str, int | str] | None = None,
    num_gpus: int | None = None,
    reservation_timeout: float = 60.0,
    log_level: str = "WARNING",
) -> Cluster:
    """Reserve nodes and start ``main(args, ctx)`` on each.

    Parameters
    ----------
    sc : SparkContext or SparkSession
    main : callable
        ``main(args, ctx)``; runs in a process of its own on each node. What it prints is in the executor's stderr (with
        ``local[N]``, in the driver's).
    args : object
        Given to ``main``; a list also becomes its ``sys.argv``.
    num_executors : int
        Number of nodes.
    input_mode : InputMode
    memory : int or str
        Bytes of shared memory of each node, such as ``"256m"``. Taken at once, never more.
    slot_bytes : int or str, optional
        Bytes of one slot of that memory; the largest row must fit into one. Default a sixteenth of it, 4 MiB at most.
    feeds : mapping, optional
        Name of a named feed -> its bytes of shared memory on each node, beside ``memory``. Taken when the feed is first used; a
        named feed that is not in here takes a quarter of ``memory``, at least four slots.
    num_gpus : int, optional
        As many GPUs for each node and no more. Default: all that Spark gave to its task (``spark.executor.resource.gpu.amount``);
        without such resources an equal share of those that CUDA_VISIBLE_DEVICES of the executors, else nvidia-smi, shows on the
        node's host, and none in a Kubernetes pod. ``main`` finds them in CUDA_VISIBLE_DEVICES.
    reservation_timeout : float
        Seconds to wait for executors to register, for the nodes to come up, and for ``main`` to start.
    log_level : str
        Of the agents and trainers; their logs are in the executors' stderr.

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
    cluster = reserve(
        sc, num_executors, memory=memory, slot_bytes=slot_bytes, feeds=feeds, num_gpus=num_gpus,
        reservation_timeout=reservation_timeout, log_level=log_level,
    )  # fmt: skip
    try:
        cluster.start(main, args, input_mode=input_mode)
    except BaseException:
        cluster.abort()
        raise
    return cluster


def _with_gpus(nodes: list[m.NodeInfo], num_gpus: int | None) -> tuple[m.NodeInfo, ...]:
    """The nodes with the GPUs that their trainers are to see, in the place of those that they found."""
    for node in nodes:
        if "failed" in node.gpu_source:
            log.warning("%s on %s gets no GPU: %s", node.name, node.host, node.gpu_source)
    found = [gpus.Found(node.name, node.agent.machine, node.gpus, node.gpu_source) for node in nodes]
    given = gpus.assign(found, num_gpus)
    return tuple(msgspec.structs.replace(node, gpus=given[node.name]) for node in nodes)


def _coordinator(sc: Any) -> Coordinator:
    if sc._jsc.sc().isLocal():
        return Coordinator("127.0.0.1", "127.0.0.1")
    conf = sc.getConf()
    advertise = conf.get("spark.driver.host", socket.gethostname())
    bind = conf.get("spark.driver.bindAddress", advertise)
    try:
        return Coordinator(socket.gethostbyname(bind), advertise)
    except OSError:  # zmq.ZMQError is one: that address is none of this host's, as behind a NAT
        return Coordinator("0.0.0.0", advertise)
