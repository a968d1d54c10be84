"""A driver in a process of its own: reserves, feeds, then does what it is told (``python -m tests.failures.driver HOW OUT``)."""

from __future__ import annotations

import sys
import threading
import time

import tfos_fast
from tests.spark import mains
from tests.spark.sparks import spark
from tests.support.spark_feeds import fed, numbered, wait_for


def idle(out: str) -> None:
    """A program that feeds and ends, as many do: it neither shuts the cluster down nor stops Spark."""
    global kept
    kept = spark("local[2]")
    sc = kept.__enter__()
    cluster = tfos_fast.run(sc, mains.collect_and_linger, {"out": out}, 2, memory="8m")
    cluster.feed(numbered(sc, [50, 50]))
    print("ready", flush=True)


def main() -> None:
    how, out = sys.argv[1:]
    if how == "idle":
        idle(out)
        return
    with spark("local[2]") as sc:
        cluster = tfos_fast.run(sc, mains.slow, {"out": out}, 2, memory="8m")
        data = numbered(sc, [100_000] * 2)

        def ready() -> None:
            wait_for(lambda: fed(cluster, "worker:0") and fed(cluster, "worker:1"), "rows")
            print("ready", flush=True)

        if how in ("exception", "exit"):
            threading.Thread(target=lambda: cluster.feed(data), daemon=True).start()
            ready()
            if how == "exception":
                raise ArithmeticError("planned for the driver")
            return
        threading.Thread(target=ready, daemon=True).start()
        try:
            cluster.feed(data)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            begin = time.monotonic()
            wait_for(lambda: not sc.statusTracker().getActiveJobsIds(), "the end of the job")
            print(f"no job {time.monotonic() - begin:.2f}", flush=True)
        except Exception as error:
            print(f"{type(error).__name__} {error}".splitlines()[0], flush=True)


if __name__ == "__main__":
    main()
