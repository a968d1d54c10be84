"""Feed tasks are killed at random rows, round after round, and every row is compared: ``python -m tests.failures.chaos``."""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import tfos_fast
from tests.spark import sparks
from tests.spark.mains import note, noted

MASTER = "local-cluster[2,1,1024]"
SMALL = {"memory": "1m", "slot_bytes": "64k"}


def row_of(turn: int, partition: int, i: int) -> tuple[int, int, int, bytes]:
    """A row whose payload tells whether it is whole."""
    return turn, partition, i, bytes([(turn + 3 * partition + 7 * i) % 251]) * 200


def compare(args: Any, ctx: Any) -> None:
    """Compare every row with what it must be, and leave which came: [turn, partition, first, behind the last]."""
    feed = ctx.get_data_feed()
    runs: list[list[int]] = []
    last: dict[tuple[int, int], list[int]] = {}
    while not feed.should_stop():
        if args.get("hold") and sum(run[3] - run[2] for run in runs) > 2000:
            while not os.path.exists(args["hold"]):
                time.sleep(0.01)
        for row in feed.next_batch(100):
            turn, partition, i, payload = row.values() if isinstance(row, dict) else row
            if payload != row_of(turn, partition, i)[3]:
                raise ValueError(f"row {i} of partition {partition} in round {turn} is not what was fed")
            run = last.get((turn, partition))
            if run is None or run[3] != i:
                run = last[turn, partition] = [turn, partition, i, i]
                runs.append(run)
            run[3] = i + 1
    note(args["out"], ctx, runs)


@dataclass(frozen=True)
class Round:
    """Sizes of the partitions, and the row before which the first attempt at each dies (None: it lives)."""

    turn: int
    sizes: tuple[int, ...]
    deaths: tuple[int | None, ...]

    @classmethod
    def draw(cls, turn: int, dice: random.Random) -> Round:
        """One or two of three attempts die, anywhere from before the first row to behind the last."""
        sizes = tuple(dice.choice([1, dice.randint(2, 300), dice.randint(300, 4000)]) for _ in range(3))
        doomed = dice.sample(range(3), dice.choice([1, 1, 1, 2]))
        return cls(turn, sizes, tuple(dice.randint(0, size) if p in doomed else None for p, size in enumerate(sizes)))

    def __call__(self, partition: int) -> Any:
        """The rows of a partition, as long as its process lives."""
        from pyspark import TaskContext

        context = TaskContext.get()
        death = self.deaths[partition] if context is not None and context.attemptNumber() == 0 else None
        for i in range(self.sizes[partition]):
            if i == death:
                os.kill(os.getpid(), signal.SIGKILL)
            yield row_of(self.turn, partition, i)
        if death is not None:
            os.kill(os.getpid(), signal.SIGKILL)


def check(rounds: list[Round], nodes: dict[int, list[list[int]]]) -> int:
    """Every row of every round came once; how many there are."""
    runs = sorted(run for node in nodes.values() for run in node)
    expected = {(r.turn, p): size for r in rounds for p, size in enumerate(r.sizes)}
    came: dict[tuple[int, int], int] = dict.fromkeys(expected, 0)
    for turn, partition, first, behind in runs:
        if came[turn, partition] != first:
            raise AssertionError(f"round {turn}, partition {partition}: row {first} comes behind {came[turn, partition]} rows")
        came[turn, partition] = behind
    wrong = {key: (came[key], size) for key, size in expected.items() if came[key] != size}
    if wrong:
        raise AssertionError(f"(round, partition): (came, fed) {wrong}")
    return sum(expected.values())


def run(sc: Any, rounds: int, seed: int, out: str, *, seconds: float = 1e9, tell: bool = False) -> tuple[int, int]:
    """Feed round after round to one cluster; returns the rows that were compared and the feed tasks that were killed."""
    dice = random.Random(seed)
    done = []
    begin = time.monotonic()
    with tfos_fast.run(sc, compare, {"out": out}, 2, **SMALL) as cluster:
        for turn in range(rounds):
            it = Round.draw(turn, dice)
            report = cluster.feed(sc.parallelize(range(3), 3).flatMap(it))
            if report.rows != sum(it.sizes):
                raise AssertionError(f"round {turn}: {report.rows} rows were taken of {sum(it.sizes)}")
            done.append(it)
            if time.monotonic() - begin > seconds:
                print(f"stopped after {turn + 1} rounds")
                break
            if tell and (turn + 1) % 50 == 0:
                print(f"{turn + 1} rounds in {time.monotonic() - begin:.0f} s", flush=True)
    return check(done, noted(out)), sum(death is not None for it in done for death in it.deaths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    options = parser.parse_args()
    print(f"{options.rounds} rounds, seed {options.seed}", flush=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as out, sparks.spark(MASTER) as sc:
        rows, kills = run(sc, options.rounds, options.seed, out, seconds=options.seconds, tell=True)
    print(f"{rows} rows compared in {time.monotonic() - begin:.0f} s, {kills} feed tasks killed: every row came once", flush=True)


if __name__ == "__main__":
    main()
