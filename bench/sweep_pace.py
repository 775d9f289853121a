"""`python -m bench.sweep_pace [--units 40]`: what a sweep adds to a picture, and what a second worker brings.

The same pictures are made by a plain loop over ComfyUI's API, by a sweep on one worker and on two, and by a sweep that
samples all scales of a unit in one run. The clock runs from the first unit that is done, with models loaded, to the
last but one. Processor time is that of all processes, so that other programs on the machine do not count in it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from devtools import hosts
from devtools.server import Server
from support.sweeping import PROMPTS, SCALES, Command, graph, parts, plan_of, sweep_of, written

from .host import say, version


@dataclass(frozen=True)
class Pace:
    """Seconds per picture by the clock, and of the processors."""

    clock: float
    processors: float


class Watch:
    """Seconds that pass, by the clock and in all processes of a command or of this program."""

    def __init__(self, processes: set[psutil.Process]):
        self.processes = processes
        self.clock, self.spent = time.perf_counter(), used(processes)

    def pace(self, pictures: int) -> Pace:
        return Pace((time.perf_counter() - self.clock) / pictures, (used(self.processes) - self.spent) / pictures)


def used(processes: set[psutil.Process]) -> float:
    """Return the processor seconds of processes that run."""
    times = [process.cpu_times() for process in processes if process.is_running()]
    return sum(one.user + one.system for one in times)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sweep_pace", description=__doc__.split("\n")[0])
    parser.add_argument("--units", type=int, default=40, help=f"a multiple of {len(PROMPTS)}")
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    seeds = {"at": "KSampler.seed", "count": chosen.units // len(PROMPTS)}
    apart, together = (sweep_of(seed=seeds) | {"run": {"together": flag}} for flag in (False, True))
    ways = {
        "a plain loop over the API, one server": lambda folder: looped(folder, graph(chosen.steps), apart),
        "a sweep, one worker": lambda folder: swept(folder, graph(chosen.steps), apart, 1),
        "a sweep, two workers": lambda folder: swept(folder, graph(chosen.steps), apart, 2),
        "a sweep, one worker, scales in one run": lambda folder: swept(folder, graph(chosen.steps), together, 1),
    }
    print(f"ComfyUI {version()}, {chosen.units} units of {len(SCALES)} scales, {chosen.steps} steps\n")
    print("| way | seconds per picture | processor seconds per picture |\n| --- | --- | --- |", flush=True)
    for name, way in ways.items():
        with tempfile.TemporaryDirectory(prefix="rlg-pace-") as folder:
            pace = way(Path(folder))
        print(f"| {name} | {pace.clock:.2f} | {pace.processors:.3f} |", flush=True)


def looped(folder: Path, graph: dict, content: dict) -> Pace:
    """Return the pace of a loop that queues one picture, waits for it and saves it, with the same rewards."""
    plan = plan_of(folder, graph, content)
    graphs = [one for unit in plan.units() for one, _ in plan.recipe.graphs(unit.values, unit.scales)]
    with Server(hosts.from_environment(), folder / "server") as server:
        say("the server is up")
        for k, one in enumerate(graphs):
            if k == len(SCALES):  # as in a sweep, the first unit loads the models
                watch = Watch({psutil.Process(), psutil.Process(server.process.pid)})
            outputs = server.run(one)
            image = next(output["images"][0] for output in outputs.values() if output.get("images"))
            (folder / f"{k}.png").write_bytes(server.image(image))
        return watch.pace(len(graphs) - len(SCALES))


def swept(folder: Path, graph: dict, content: dict, workers: int) -> Pace:
    """Return the pace of a sweep."""
    files, results = written(folder, graph, content), folder / "results"
    units = len(plan_of(folder, graph, content).units())
    with Command(files, results, "--workers", str(workers)) as command:
        command.until_done(workers)  # each has loaded the models, or is about to have
        command.note()
        watch, before = Watch(command.own), len(parts(results))
        command.until_done(units - 1)
        pace = watch.pace((len(parts(results)) - before) * len(SCALES))
        command.process.wait()
    return pace


if __name__ == "__main__":
    main()
