"""`python -m bench.sweep_kills [--units 500]`: a sweep whose worker is killed every 30 units and whose driver twice.

The worker's ComfyUI is one that runs, so that the time goes into kills and not into ComfyUI's starts; the one that a
worker starts is killed in tests/sweep/test_killed.py. Ends with a table in Markdown, and with status 1 where a unit is
missing, is there twice or was written again, or where a process is left.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from devtools import hosts
from devtools.server import Server
from support.sweeping import PROMPTS, Command, graph, parts, sweep_of, written
from sweep.store import Store

from .host import say, version

EVERY = 30
"""Units from one killed worker to the next."""

SCALES = (0.0, 2.0)


@dataclass
class Found:
    """What happened: workers and drivers killed, units written again, processes left behind."""

    workers: int = 0
    drivers: int = 0
    again: int = 0
    left: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sweep_kills", description=__doc__.split("\n")[0])
    parser.add_argument("--units", type=int, default=500, help=f"a multiple of {len(PROMPTS)}")
    units = parser.parse_args().units
    started, found = time.monotonic(), Found()
    with tempfile.TemporaryDirectory(prefix="rlg-kills-") as name:
        folder = Path(name)
        results = folder / "results"
        content = sweep_of(
            scale={"at": "RLGApply.scale", "values": SCALES},
            seed={"at": "KSampler.seed", "count": units // len(PROMPTS)},
        )
        files = written(folder, graph(steps=1), content)
        with Server(hosts.from_environment(), folder / "server") as server:
            for stop in (units // 3, 2 * units // 3, units):
                with Command(files, results, "--server", server.url) as command:
                    until(command, stop, found, is_last=stop == units)
        rows = Store(str(results)).rows(columns=["prompt", "seed", "scale"])
    return told(units, rows, found, (time.monotonic() - started) / 60)


def until(command: Command, stop: int, found: Found, is_last: bool) -> None:
    """Wait until `stop` units are done, then kill the driver; let the last one come to its end."""
    before = parts(command.results)
    for count in range(len(before) + EVERY, stop, EVERY):
        command.until_done(count)
        for worker in command.named("ray::Worker"):
            worker.kill()
            found.workers += 1
        say(f"{count} units: worker killed")
    command.until_done(stop)
    if is_last:
        command.process.wait()
    else:
        command.kill()
        found.drivers += 1
        say(f"{stop} units: driver killed")
    found.left += [str(process) for process in command.leavings()]
    after = parts(command.results)
    found.again += sum(after[unit] != when for unit, when in before.items())


def told(units: int, rows: list[dict], found: Found, minutes: float) -> int:
    """Print what was found; return 1 where anything is wrong."""
    times = Counter((row["prompt"], row["seed"], row["scale"]) for row in rows)
    missing = units * len(SCALES) - len(times)
    twice = sum(count > 1 for count in times.values())
    table = {
        "units": units,
        "workers killed": found.workers,
        "drivers killed": found.drivers,
        "rows": len(rows),
        "missing": missing,
        "twice": twice,
        "written again": found.again,
        "processes left": len(found.left),
        "minutes": round(minutes),
    }
    print(f"ComfyUI {version()}, one worker, {len(SCALES)} scales per unit\n")
    for cells in (table, ["---"] * len(table), table.values()):
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return int(bool(missing or twice or found.again or found.left))


if __name__ == "__main__":
    sys.exit(main())
