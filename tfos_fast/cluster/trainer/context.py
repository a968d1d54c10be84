"""What the user's ``main(args, ctx)`` gets to know about its place in the cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from tfos_fast.channel import Channel
from tfos_fast.cluster.protocol.roles import FED, tf_config
from tfos_fast.errors import FormError, RoleError

if TYPE_CHECKING:
    from tfos_fast.channel.reader.reader import Reader
    from tfos_fast.tf.feed import DataFeed

_opening = threading.Lock()  # a feed has one reader, whichever thread asks first


@dataclass
class Context:
    """Place of a node in the cluster, and its feed.

    Attributes
    ----------
    job_name : str
        Role of this node: ``"chief"``, ``"master"``, ``"worker"``, ``"ps"`` or ``"evaluator"``.
    task_index : int
        Number of this node among those of its role.
    executor_id : int
        Number of this node among all nodes.
    cluster_spec : dict
        Role -> list of ``host:port``, one per node, for TensorFlow's servers; without the evaluator, as TensorFlow wants it. No
        other program gets this node's port, also as long as no server has bound it.
    restarts : int
        How often this ``main`` was started before, because it or another node had failed (``max_restarts``): 0 at first. Later it
        has to go on from its own checkpoint; the feed goes on behind the last ``commit``.
    """

    job_name: str
    task_index: int
    executor_id: int
    cluster_spec: dict[str, list[str]]
    address: str = field(repr=False, default="")
    restarts: int = 0
    _feeds: dict[tuple[str, bool, int], DataFeed] = field(repr=False, default_factory=dict)
    _readers: list[Reader] = field(repr=False, default_factory=list)

    @property
    def num_workers(self) -> int:
        """Nodes that train: the chief or master, and the workers."""
        return sum(len(nodes) for job, nodes in self.cluster_spec.items() if job in FED)

    @property
    def tf_config(self) -> str:
        """What the environment variable TF_CONFIG holds: the cluster and this node's task, as JSON."""
        return tf_config(self.cluster_spec, self.job_name, self.task_index)

    def hold(self) -> NoReturn:
        """Serve others until the driver stops this node: nobody waits for this ``main``, and no rows are fed to it.

        For a worker or ps that has started a server, as for ``ParameterServerStrategy``. Partitions that wait for this node
        go to the others. (On a ps, ``server.join()`` does as well.)
        """
        with contextlib.closing(Channel.attach(self.address)) as channel:
            channel.control("hold")
        while True:
            signal.pause()  # the agent's SIGTERM ends the process

    def release_port(self) -> None:
        """Give up the port of this node in ``cluster_spec``, for a server that cannot bind it otherwise; do it just before.

        TensorFlow's servers can, unless the cluster was reserved with ``release_port=False``: then the port is held against
        everybody until this call.
        """
        with contextlib.closing(Channel.attach(self.address)) as channel:
            channel.control("release_port")

    def get_data_feed(self, train_mode: bool = True, *, name: str = "") -> DataFeed:
        """The rows that Spark feeds to this node.

        Parameters
        ----------
        train_mode : bool
            False for inference: every row needs one result, given by ``batch_results``.
        name : str
            A feed that the driver offers by :meth:`Cluster.offer <tfos_fast.cluster.driver.cluster.Cluster.offer>`. Each new
            iterator of its ``dataset`` starts the next epoch; the other ways of reading go on epoch after epoch, until shutdown.

        Returns
        -------
        DataFeed
            The same one on each call with the same argument; a process that was forked gets one of its own. One process reads it.
        """
        if self.job_name not in FED:
            raise RoleError(f"{self.job_name}:{self.task_index} gets no rows: Spark feeds the chief or master, and the workers")
        if isinstance(train_mode, str):
            raise FormError(f"get_data_feed({train_mode!r}): a feed's name is a keyword: get_data_feed(name={train_mode!r})")
        if name and not train_mode:
            raise FormError("a named feed is read for training or validation; inference goes by the default feed")
        with _opening:
            key = name, train_mode, os.getpid()
            if key not in self._feeds:
                from tfos_fast.tf.feed import DataFeed

                address = self.address
                if name:
                    with contextlib.closing(Channel.attach(self.address)) as channel:
                        address = channel.control("feed", name.encode()).decode()
                reader = Channel.attach(address).reader(train_mode=train_mode)
                self._readers.append(reader)
                self._feeds[key] = DataFeed(reader)
            return self._feeds[key]

    def _abandon(self) -> None:
        """Main has raised: its readers must not look as if they wanted no more rows."""
        for reader in self._readers:
            reader.abandon()

    def _close(self) -> None:
        """Leave the channel in order."""
        for reader in self._readers:
            reader.close()
