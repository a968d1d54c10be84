"""Which node a Spark task goes to: one of its host if there is one, else one that it reaches over the network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from tfos_fast.channel import Channel
from tfos_fast.channel.remote.client import RemoteAddress
from tfos_fast.cluster.protocol import messages as m
from tfos_fast.cluster.protocol.identity import host_name
from tfos_fast.cluster.protocol.keys import ClusterKeys
from tfos_fast.cluster.spark.task import executor_pid
from tfos_fast.errors import AddressError, BrokerDied, NoNodeOnHost

ASKED = 4  # of many remote nodes so many are asked for their counters: the least busy of some is good enough
MISSED = 8  # that cannot be reached; each takes some seconds when a firewall says nothing

Rank = tuple[int, int, int]


def choose(
    nodes: Iterable[m.NodeInfo], keys: ClusterKeys, partition: int, turn: int = 0, name: str = "", *, stall_timeout: float = 600.0
) -> Channel | None:
    """Attach to the node that this partition goes to: the hungriest of its executor, else of its host, else of all.

    Parameters
    ----------
    nodes : iterable of NodeInfo
    keys : ClusterKeys
        With which nodes on other hosts let a feeder in.
    partition, turn : int
        Tasks that begin at the same moment see the same counters: these part them.
    name : str
        Of the feed.
    stall_timeout : float
        Seconds, of the writer that will be asked for.

    Returns
    -------
    Channel or None
        None when every node that could be reached wants no more rows.

    Raises
    ------
    NoNodeOnHost
        No node can be reached.
    NodeFailed
        A node that was asked has failed.
    """
    nodes = list(nodes)
    order = [nodes[(partition + turn + i) % len(nodes)] for i in range(len(nodes))]
    executor = executor_pid()
    here = False
    for near in (True, False):  # a node of its own executor is not compared with others
        some = [node for node in order if (node.executor.pid == executor) is near]
        # A single one is asked over the connection that the rows will take: a task makes one, and not two.
        there, channel = _hungriest(_local(some, name), stall_timeout if len(some) == 1 else None)
        here = here or there
        if channel is not None:
            return channel
    if here:
        return None
    failures: list[str] = []
    far, channel = _hungriest(_remote(order, keys, name, failures))
    if far:
        return channel
    gone = [node.name for node in nodes if node.host == host_name()]
    if gone:
        raise NoNodeOnHost(
            f"{', '.join(gone)} on {host_name()} cannot be reached any more: was the cluster shut down? "
            "An inference is lazy: evaluate it before cluster.shutdown()"
        )
    raise NoNodeOnHost(
        f"partition {partition} is fed on {host_name()}, where no node of the cluster runs, and it reaches none over the "
        f"network: {'; '.join(failures[:ASKED])}. Let executors connect to each other, or give each host a node (num_executors)."
    )


def _local(nodes: list[m.NodeInfo], name: str) -> Iterator[Channel]:
    """A channel of each node on this host."""
    for node in nodes:
        with contextlib.suppress(AddressError):  # it is on another host, or gone
            channel = Channel.attach(node.address)
            if name:
                with contextlib.closing(channel):
                    address = channel.control("feed", name.encode()).decode()
                channel = Channel.attach(address)
            yield channel


def _remote(nodes: list[m.NodeInfo], keys: ClusterKeys, name: str, failures: list[str]) -> Iterator[Channel]:
    """The same of nodes that answer over the network."""
    asked = 0
    for node in nodes:
        if asked == ASKED or len(failures) == MISSED:
            return
        if not node.feed_endpoint:
            continue
        address = RemoteAddress(
            node.feed_endpoint, node.feed_key.encode(), keys.client_public, keys.client_secret, name, f"{node.name} ({node.host})"
        )
        channel = Channel.attach(address)
        try:
            channel.connect()
        except (AddressError, BrokerDied) as error:
            failures.append(str(error))
            continue
        asked += 1
        yield channel


def _hungriest(found: Iterator[Channel], stall_timeout: float | None = None) -> tuple[bool, Channel | None]:
    """Whether any node is there, and the one that wants rows most; with a timeout each is entered as a writer at once."""
    ranked: list[tuple[Rank, Channel]] = []
    there = False
    try:
        for position, channel in enumerate(found):
            ranked.append(((0, 0, position), channel))  # closed with the others, whatever happens
            try:
                status = channel.status() if stall_timeout is None else channel.enter(stall_timeout)
            except AddressError:
                ranked.pop()
                channel.close()
                continue
            there = True
            if status["terminated"]:
                ranked.pop()
                channel.close()
                continue
            queued = status["rows_published"] - status["rows_taken"]
            ranked[-1] = ((status["writers"], queued, position), channel)
    except BaseException:
        for _, channel in ranked:
            channel.close()
        raise
    ranked.sort(key=lambda pair: pair[0])
    for _, channel in ranked[1:]:
        channel.close()
    return there, ranked[0][1] if ranked else None
