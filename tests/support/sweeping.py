"""Small sweeps of the shipped workflow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from devtools.paths import ROOT
from sweep import spec
from sweep.plan import Plan
from sweep.recipe import recipe

from .graphs import changed, load

PROMPTS = ("three red circles", "two blue squares", "one yellow triangle", "three purple squares", "two green circles")
SCALES = (0.0, 1.0, 2.0)
RAYS_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
PATIENCE = 600
"""Seconds until something that a test waits for counts as missing; a busy machine takes its time."""


def graph(steps: int = 2, **sampler: Any) -> dict:
    """Return the shipped workflow with few steps."""
    return changed(load(), "KSampler", steps=steps, **sampler)


def sweep_of(**changes: Any) -> dict:
    """Return the content of a sweep file: prompts, two seeds, the scales, two rewards; `changes` replace inputs."""
    inputs = {
        "scale": {"at": "RLGApply.scale", "values": list(SCALES)},
        "seed": {"at": "KSampler.seed", "values": [7, 8]},
        "prompt": {"at": "Positive prompt.text", "values": list(PROMPTS)},
    }
    rewards = {"brightness": "brightness (demo)", "scene": "scene judge (demo)"}
    return {"inputs": {name: table for name, table in (inputs | changes).items() if table}, "rewards": rewards}


def written(folder: Path, graph: Mapping, content: Mapping) -> tuple[Path, Path]:
    """Write a workflow and a sweep file; return their paths."""
    workflow, file = folder / "workflow.json", folder / "sweep.yaml"
    workflow.write_text(json.dumps(graph), encoding="utf-8")
    file.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return workflow, file


def plan_of(folder: Path, graph: Mapping, content: Mapping, files: Mapping[str, str] | None = None) -> Plan:
    """Return the units of a sweep."""
    _, file = written(folder, graph, content)
    found = spec.read(file)
    return Plan(recipe(graph, found), found, files or {})


class Command:
    """`python -m sweep` as a child process; leaving the context kills it where it still runs."""

    def __init__(self, files: Sequence[Path], results: Path, *options: str):
        self.results, self.log = results, results.with_suffix(".log")
        command = [sys.executable, "-m", "sweep", *map(str, files), "--results", str(results), *options]
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ})
        self.own: set[psutil.Process] = {psutil.Process(self.process.pid)}

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *error) -> None:
        self.note()
        for process in self.own:
            if process.is_running():
                process.kill()
        self.process.wait()

    def note(self) -> None:
        """Remember every process that the command has started so far, for those that lose their parent."""
        for process in list(self.own):
            if process.is_running():
                self.own |= set(process.children(recursive=True))

    def named(self, part: str) -> list[psutil.Process]:
        """Return the processes of the command that run and whose command line has `part`."""
        self.note()
        alive = [process for process in self.own if process.is_running()]
        return [process for process in alive if any(part in word for word in command_line(process))]

    def until(self, happened: Callable[[], Any], what: str) -> Any:
        """Wait until something has happened; return what it gives."""
        deadline = time.monotonic() + PATIENCE
        while not (found := happened()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{what}: not so. The command told:\n{self.told()}")
            time.sleep(0.05)
        return found

    def until_done(self, count: int) -> None:
        """Wait until so many units are done, for each of them anew."""
        for more in range(len(parts(self.results)) + 1, count + 1):
            self.until(lambda more=more: len(parts(self.results)) >= more, f"{more} units done")

    def kill(self) -> None:
        """End the command by force, as the machine's want of memory does."""
        self.note()
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> int:
        """Press Ctrl-C; return the exit code."""
        self.note()
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)

    def leavings(self) -> list[psutil.Process]:
        """Return the processes that the command left, once they have had time to end.

        Ray's agents outlive a driver that was killed. They are ended here and do not count.
        """
        agents = [process for agent in RAYS_AGENTS for process in self.named(agent)]
        _, left = psutil.wait_procs([process for process in self.own if process not in agents], timeout=PATIENCE)
        for agent in agents:
            agent.kill()
        return [process for process in left if process.status() != psutil.STATUS_ZOMBIE]

    def told(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def parts(results: Path) -> dict[str, int]:
    """Return {unit: when its rows were written} of the finished units."""
    return {path.stem: path.stat().st_mtime_ns for path in (results / "parts").glob("*.parquet")}
