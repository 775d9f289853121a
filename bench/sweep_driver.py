"""`python -m bench.sweep_driver [--workers 8 100 1000]`: what the driver of a sweep spends per unit.

The real driver, on a real Ray, hands units to workers that answer at once, with rows as long as real ones; so all the
time that passes is the driver's and Ray's. A few processes stand for all workers.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time

import ray

from sweep.board import Board
from sweep.cluster import start_local
from sweep.drive import Driver, Hand
from sweep.plan import Unit
from sweep.store import Store
from sweep.worker import Result

PROCESSES = 2
SCALES = tuple(0.5 * k for k in range(6))


class Idle:
    """Answers as a worker does that keeps its pictures, without making any."""

    def run(self, unit: Unit, keeps: bool) -> Result:
        return Result(rows(unit))


def rows(unit: Unit) -> list[dict]:
    name = f"pictures/{unit.folder}/w0.png"
    row = {"unit": unit.key, **unit.values, "item": 0, "reward": 0.5, "picture": name, "worker": "host", "seconds": 1.0}
    return [{**row, "scale": scale} for scale in unit.scales]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sweep_driver", description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 100, 1000])
    parser.add_argument("--units", type=int, default=3000)
    chosen = parser.parse_args()
    start_local()
    units = [Unit(f"{k:064x}", {"prompt": f"prompt {k}", "seed": k}, SCALES) for k in range(chosen.units)]
    print(f"a unit of {len(SCALES)} scales sends {len(pickle.dumps(rows(units[0]))) / 1000:.0f} kB to the driver\n")
    print("| workers | units per second | processor ms of the driver per unit |\n| --- | --- | --- |", flush=True)
    try:
        actors = [ray.remote(Idle).options(num_cpus=0).remote() for _ in range(PROCESSES)]
        for count in chosen.workers:
            hands = [Hand(actors[k % PROCESSES], f"worker {k}", keeps=True) for k in range(count)]
            clock, spent = driven(hands, units)
            print(f"| {count} | {len(units) / clock:.0f} | {1000 * spent / len(units):.2f} |", flush=True)
    finally:
        ray.shutdown()


def driven(hands: list[Hand], units: list[Unit]) -> tuple[float, float]:
    """Return the seconds, by the clock and of the processor, that a driver takes for all units."""
    with tempfile.TemporaryDirectory() as folder, Board() as board:
        driver = Driver(hands, Store(folder), 3600.0, board, "reward")
        started, spent = time.perf_counter(), time.process_time()
        driver.run(units)
        return time.perf_counter() - started, time.process_time() - spent


if __name__ == "__main__":
    main()
