"""A barrier of the nodes of a host, and partitions of unequal size."""

from __future__ import annotations

import contextlib
from multiprocessing.connection import Client, Listener

import numpy as np

from tests.support.spark_feeds import wait_for

NODES = 4


class Barrier:
    """All nodes of a host come to it before one goes on: what an all-reduce is to training."""

    def __init__(self, folder, ctx):
        path = f"{folder}/barrier"
        if ctx.task_index == 0:
            with Listener(path, "AF_UNIX", backlog=NODES) as listener:
                self.peers = [listener.accept() for _ in range(ctx.num_workers - 1)]
        else:
            self.peers = []
            wait_for(lambda: self._connect(path), "node 0 listens")
        self.first = ctx.task_index == 0

    def _connect(self, path):
        if not self.peers:  # once: another connection would take the place of another node
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                self.peers.append(Client(path, "AF_UNIX"))
        return self.peers

    def meet(self):
        if not self.first:
            self.peers[0].send(None)
            self.peers[0].recv()
            return
        for peer in self.peers:
            peer.recv()
        for peer in self.peers:
            peer.send(None)


def partitions(sc, *sizes):
    def rows(p):
        return ((np.full(250, i, np.float32), i) for i in range(sum(sizes[:p]), sum(sizes[: p + 1])))

    return sc.parallelize(range(len(sizes)), len(sizes)).flatMap(rows)
