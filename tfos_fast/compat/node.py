"""What a trainer runs for ``TFCluster.run``: makes the context and calls ``map_fun``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tfos_fast.cluster.trainer.context import Context
from tfos_fast.compat import DROPIN, gone
from tfos_fast.compat.manager import NodeManager
from tfos_fast.compat.TFSparkNode import TFNodeContext, set_tf_config
from tfos_fast.errors import RoleError


class _Port:
    """Stands for the socket that holds the node's port: the agent has it."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def getsockname(self) -> tuple[str, int]:
        """Address and port, as a socket says them."""
        context = self._context
        nodes = context.cluster_spec.get(context.job_name, ())
        if context.task_index >= len(nodes):
            raise RoleError(f"{context.job_name}:{context.task_index} is in nobody's cluster_spec, so its port is not known here")
        host, _, port = nodes[context.task_index].rpartition(":")
        return host.strip("[]"), int(port)

    def close(self) -> None:
        self._context.release_port()


def prefer_ours() -> Ours:
    """Let this process find the package ``tensorflowonspark`` of tfos-fast before any other one."""
    sys.path.insert(0, str(DROPIN))
    return Ours()


class Ours:
    """Unpickled before the user's function, whose modules may import ``tensorflowonspark``.

    The original may come first on the path, by ``sc.addPyFile("tfspark.zip")`` or a plain ``spark-submit --py-files``.
    """

    def __reduce__(self) -> Any:
        return prefer_ours, ()


def if_dropin() -> Ours | None:
    """For a program that has imported ``tensorflowonspark`` and got ours."""
    module = sys.modules.get("tensorflowonspark")
    return Ours() if module is not None and str(module.__file__).startswith(str(DROPIN)) else None


@dataclass(frozen=True)
class NodeMain:
    """``main(args, context)`` of a node; pickled with the user's function in it."""

    ours: Ours | None  # the first field, so that it is unpickled first
    map_fun: Callable[[Any, TFNodeContext], Any]
    default_fs: str
    working_dir: str
    queues: tuple[str, ...]
    release_port: bool
    num_workers: int | None = None  # of a parallel run, whose nodes know nothing of each other

    def __call__(self, args: Any, context: Context) -> None:
        manager = NodeManager(context, self.queues)
        port = None if self.release_port else _Port(context)
        alone = self.num_workers is not None
        spec = {} if alone else context.cluster_spec
        set_tf_config(spec, context.job_name, context.task_index)
        ctx = TFNodeContext(
            context.executor_id, context.job_name, context.task_index, spec, self.default_fs, self.working_dir, manager, port
        )
        if self.num_workers is not None:
            ctx.num_workers = self.num_workers
        try:
            self.map_fun(args, ctx)
            manager.check_errors()
        except AttributeError as error:
            what = gone.what_stands_for(error)
            if what is None:
                raise
            raise AttributeError(f"{error}. {what}") from error
