"""Facts of a driver and of executors, as the survey before a cluster gives them."""

from __future__ import annotations

import dataclasses

from tfos_fast.cluster.preflight.checks import Facts, Need

GIB = 1 << 30
VERSIONS = {
    "pyspark": "4.3.0", "numpy": "2.4.6", "zmq": "27.3.0", "msgspec": "0.22.0",
    "psutil": "7.2.2", "cloudpickle": "3.1.2", "tensorflow": "2.21.0",
}  # fmt: skip
DRIVER = Facts(
    "front", "m0", "3.11.7", "/python", "cpython-311-x86_64-linux-gnu", "linux x86_64",
    {"version": "0.1.0", "digest": "d", "folder": "/here/tfos_fast"}, dict(VERSIONS), 8 * GIB, "memory.max",
)  # fmt: skip
NEED = Need(2, GIB, "tcp://front:4000")


def executor(host="a", **changes):
    versions = VERSIONS | changes.pop("versions", {})
    return dataclasses.replace(DRIVER, host=host, machine=host, versions=versions, **changes)
