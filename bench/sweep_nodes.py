"""`python -m bench.sweep_nodes [--units 200]`: a sweep on two Ray nodes, of which one is killed in the middle.

Two `ray start` processes stand for two machines; the sweep reaches them with `--address`, as it does a cluster. The
node that is killed loses all its processes at once, its worker's ComfyUI too. Ends with a table in Markdown, and with
status 1 where a unit is missing, is there twice or was written again, or where its worker did not come back on the
other node.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import psutil

from devtools.console import end_in_order
from devtools.server import free_port
from support.sweeping import PATIENCE, PROMPTS, SCALES, Command, graph, parts, sweep_of, written
from sweep.store import Store

from .host import say, version

RAY = Path(sys.executable).with_name("ray")
ALIKE = ("--block", "--disable-usage-stats", "--object-store-memory=100000000")


class Node:
    """A Ray node as a machine has it: `ray start`, and all that it starts. It is tried again where Ray gives up."""

    def __init__(self, folder: Path, *options: str):
        self.log = folder / "node.log"
        self.command = [RAY, "start", *ALIKE, *options]
        self.process = None

    def __enter__(self) -> Node:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                with self.log.open("w") as log:
                    self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
            if "Ray runtime started" in self.log.read_text():
                return self
            time.sleep(0.5)
        raise AssertionError(f"a node did not start:\n{self.log.read_text()}")

    def __exit__(self, *error) -> None:
        if self.process.poll() is None:
            self.kill()

    def kill(self) -> None:
        """End every process of this node by force."""
        every = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for process in every:
            process.kill()
        psutil.wait_procs(every)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sweep_nodes", description=__doc__.split("\n")[0])
    parser.add_argument("--units", type=int, default=200, help=f"a multiple of {len(PROMPTS)}")
    units = parser.parse_args().units
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # one for all, whether or not this machine has a token of Ray's
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rlg-nodes-")))
        head, port = folder / "head", free_port()
        head.mkdir()
        stack.enter_context(
            Node(head, "--head", f"--port={port}", f"--temp-dir={head}", "--num-cpus=2", "--include-dashboard=false")
        )
        address = f"127.0.0.1:{port}"
        other = stack.enter_context(Node(folder, f"--address={address}", "--num-cpus=1"))
        content = sweep_of(seed={"at": "KSampler.seed", "count": units // len(PROMPTS)})
        files = written(folder, graph(), content)
        command = Command(files, folder / "results", "--address", address, "--workers", "2")
        stack.enter_context(command)
        return told(units, command, other)


def told(units: int, command: Command, other: Node) -> int:
    """Kill the other node after a third of the units; print what is there in the end."""
    command.until_done(units // 3)
    other.kill()
    killed, before = time.monotonic(), parts(command.results)
    say(f"{len(before)} units: a node killed")
    command.until(lambda: " is back" in command.told() or len(parts(command.results)) == units, "the worker is back")
    back = time.monotonic() - killed if " is back" in command.told() else None
    code = command.process.wait(PATIENCE)
    after = parts(command.results)
    rows = Store(str(command.results)).rows(columns=["prompt", "seed", "scale"])
    times = Counter((row["prompt"], row["seed"], row["scale"]) for row in rows)
    table = {
        "units": units,
        "done when a node was killed": len(before),
        "rows": len(rows),
        "missing": units * len(SCALES) - len(times),
        "twice": sum(count > 1 for count in times.values()),
        "written again": sum(after[unit] != when for unit, when in before.items()),
        "seconds until its worker was back on the other node": "-" if back is None else round(back),
        "exit code": code,
    }
    print(f"ComfyUI {version()}, two workers, {len(SCALES)} scales per unit\n")
    for cells in (table, ["---"] * len(table), table.values()):
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    bad = table["missing"] or table["twice"] or table["written again"] or code or back is None
    if bad:
        print(command.told())
    return int(bool(bad))


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
