"""Roles of the nodes, and what TensorFlow is told of them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from tfos_fast.errors import RoleError

FED = ("chief", "master", "worker")  # they train: Spark feeds them, and the cluster's end waits for their main
CHIEFS = ("chief", "master")


@dataclass(frozen=True)
class Role:
    """One node's part.

    Attributes
    ----------
    job_name : str
        ``chief``, ``master``, ``worker``, ``ps`` or ``evaluator``.
    task_index : int
        Its number among those of its role.
    executor_id : int
        Its number among all nodes.
    """

    job_name: str
    task_index: int
    executor_id: int

    @property
    def name(self) -> str:
        """As messages and logs call the node."""
        return f"{self.job_name}:{self.task_index}"

    @property
    def fed(self) -> bool:
        """Whether it trains, and so gets rows and is waited for."""
        return self.job_name in FED


def assign(num_nodes: int, num_ps: int = 0, master_node: str | None = None, eval_node: bool = False) -> tuple[Role, ...]:
    """The roles of so many nodes: first the ps, then the chief or master, the evaluator, and workers.

    Raises
    ------
    RoleError
        There are fewer nodes than roles, nobody trains, or the chief has no name that TensorFlow knows.
    """
    if num_nodes < 1:
        raise RoleError(f"num_executors must be 1 or more, not {num_nodes}")
    if num_ps < 0:
        raise RoleError(f"num_ps must be 0 or more, not {num_ps}")
    if master_node is not None and master_node not in CHIEFS:
        raise RoleError(f"master_node is 'chief' (TensorFlow 2) or 'master' (TensorFlow 1), not {master_node!r}")
    jobs = ["ps"] * num_ps + [master_node] * (master_node is not None) + ["evaluator"] * eval_node
    if num_nodes < len(jobs) + (master_node is None):
        wanted = f"num_ps={num_ps}, master_node={master_node!r}, eval_node={eval_node}"
        raise RoleError(
            f"num_executors={num_nodes} counts the nodes of all roles, and {wanted} need {len(jobs) + (master_node is None)} "
            "at least, one of which trains"
        )
    jobs += ["worker"] * (num_nodes - len(jobs))
    counts: dict[str, int] = {}
    roles = []
    for number, job in enumerate(jobs):
        assert job is not None
        roles.append(Role(job, counts.setdefault(job, 0), number))
        counts[job] += 1
    return tuple(roles)


def cluster_spec(endpoints: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Role -> addresses, of the (role, address) pairs of all nodes in their order.

    The evaluator is not in it: it takes no part in the training cluster, and TensorFlow wants to hear of it in its own task only.
    """
    spec: dict[str, list[str]] = {}
    for job, endpoint in endpoints:
        if job != "evaluator":
            spec.setdefault(job, []).append(endpoint)
    return spec


def tf_config(spec: dict[str, list[str]], job_name: str, task_index: int) -> str:
    """What TF_CONFIG holds at one node."""
    return json.dumps({"cluster": spec, "task": {"type": job_name, "index": task_index}})
