"""`python -m bench.sweep_pace [--rounds 8]`: what a sweep adds to a picture, and what a second worker brings.

Two servers run, and pictures of the same graph are made on them by turns: by a plain loop over ComfyUI's API that saves
what it gets, by a sweep's driver with one worker and with two, and by one worker that samples all scales of a unit in
one run. Every turn has seeds of its own, so that no server has a picture already. Each round compares its turns with
its own loop, for the speed of a shared machine drifts; what is told is the median of the rounds.

Processor time is told apart: of the servers, of the worker and the driver, and of Ray, whose processes also take some
while nothing happens.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil
import ray

from devtools import hosts
from devtools.server import Server
from support.sweeping import PROMPTS, SCALES, graph, plan_of, sweep_of
from sweep import cluster
from sweep.board import Board
from sweep.drive import Driver, Hand
from sweep.plan import Plan
from sweep.store import Store
from sweep.worker import Job

from .host import say, version

LOOP = "a plain loop over the API"
PARTS = ("servers", "worker and driver", "Ray")


@dataclass(frozen=True)
class Pace:
    """Seconds per picture: by the clock, and of the processors by part."""

    clock: float
    processors: dict[str, float]


class Watch:
    """Seconds that pass, by the clock and in the processes of each part."""

    def __init__(self, servers: Sequence[Server]):
        self.servers = {server.process.pid for server in servers}
        self.clock, self.before = time.perf_counter(), self.spent()

    def pace(self, pictures: int) -> Pace:
        clock, spent = time.perf_counter() - self.clock, self.spent()
        return Pace(clock / pictures, {part: (spent[part] - self.before[part]) / pictures for part in PARTS})

    def spent(self) -> dict[str, float]:
        """Return the processor seconds of each part so far."""
        found = dict.fromkeys(PARTS, 0.0)
        own = psutil.Process()
        for process in (own, *own.children(recursive=True)):
            with suppress(psutil.Error):  # it has just ended
                times = process.cpu_times()
                found[self.part(process)] += times.user + times.system
        return found

    def part(self, process: psutil.Process) -> str:
        if process.pid in self.servers:
            return "servers"
        is_worker = process.pid == psutil.Process().pid or any("ray::Worker" in word for word in process.cmdline())
        return "worker and driver" if is_worker else "Ray"


class Course:
    """What is run by turns: `turn` units, from seeds that no turn before has had."""

    def __init__(self, folder: Path, steps: int, turn: int, servers: Sequence[Server]):
        self.folder, self.steps, self.turn, self.servers = folder, steps, turn, servers
        self.seeds = count(0, max(1, turn // len(PROMPTS)))
        self.hands = {flag: [self.hand(flag, server) for server in servers] for flag in (False, True)}

    def plan(self, together: bool) -> Plan:
        seeds = {"at": "KSampler.seed", "first": next(self.seeds), "count": self.turn // len(PROMPTS)}
        return plan_of(self.folder, graph(self.steps), sweep_of(seed=seeds) | {"run": {"together": together}})

    def hand(self, together: bool, server: Server) -> Hand:
        """Return a worker for a server; it has sampled once, so that the models are loaded."""
        plan, store = self.plan(together), Store(str(self.folder / "results"))
        (actor,) = cluster.workers(
            cluster.Shape(servers=(server.url,)),
            Job(plan.recipe, store.place, 600.0, {}),
            {"PYTHONPATH": cluster.with_this_clone()},
        )
        ray.get(actor.run.remote(plan.units()[0], True))
        return Hand(actor, server.url, keeps=True)

    def swept(self, together: bool, workers: int) -> Pace:
        units = self.plan(together).units()
        driver = Driver(self.hands[together][:workers], Store(str(self.folder / "results")), 600.0, Board(), "scene")
        watch = Watch(self.servers)
        driver.run(units)
        assert driver.tally.done == len(units), "units failed"
        return watch.pace(len(units) * len(SCALES))

    def looped(self) -> Pace:
        """Queue one picture, wait for it and save it, with the same rewards, and so on."""
        plan = self.plan(False)
        graphs = [one for unit in plan.units() for one, _ in plan.recipe.graphs(unit.values, unit.scales)]
        server, watch = self.servers[0], Watch(self.servers)
        for k, one in enumerate(graphs):
            image = next(output["images"][0] for output in server.run(one).values() if output.get("images"))
            (self.folder / f"{k}.png").write_bytes(server.image(image))
        return watch.pace(len(graphs))

    def ways(self) -> dict[str, Callable[[], Pace]]:
        return {
            LOOP: self.looped,
            "a sweep, one worker": lambda: self.swept(False, 1),
            "a sweep, two workers": lambda: self.swept(False, 2),
            "a sweep, one worker, scales in one run": lambda: self.swept(True, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sweep_pace", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--units", type=int, default=5, help=f"of a turn, a multiple of {len(PROMPTS)}")
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    rounds: list[dict[str, Pace]] = []
    with course(chosen.steps, chosen.units) as found:
        for k in range(chosen.rounds):
            rounds.append({name: way() for name, way in found.ways().items()})
            say(f"round {k + 1}: " + ", ".join(f"{pace.clock:.2f} s" for pace in rounds[-1].values()))
    size = f"{chosen.rounds} rounds of {chosen.units} units of {len(SCALES)} scales, {chosen.steps} steps"
    print(f"\nComfyUI {version()}, {size}; medians per picture\n")
    print("| way | seconds | beside the loop | processor seconds: " + " | ".join(PARTS) + " |")
    print("| --- | --- | --- | " + " | ".join("---" for _ in PARTS) + " |")
    for name in rounds[0]:
        print(row(name, rounds), flush=True)


@contextmanager
def course(steps: int, units: int) -> Iterator[Course]:
    """Give the course, with its servers and Ray running."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rlg-pace-")))
        host = hosts.from_environment()
        servers = [stack.enter_context(Server(host, folder / f"server-{k}")) for k in range(2)]
        cluster.start_local()
        stack.callback(ray.shutdown)
        yield Course(folder, steps, units, servers)


def row(name: str, rounds: Sequence[dict[str, Pace]]) -> str:
    """Return the medians of a way over the rounds, and between which its ratios to the loop lie."""
    own = [each[name] for each in rounds]
    ratios = [each[name].clock / each[LOOP].clock for each in rounds]
    cells = [name, f"{statistics.median(pace.clock for pace in own):.3f}"]
    cells.append(f"{statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})")
    cells += [f"{statistics.median(pace.processors[part] for pace in own):.4f}" for part in PARTS]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
