"""The ComfyUI of a worker: one that it starts, without an editor, or one that runs already."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from devtools import hosts
from devtools.console import Failure
from devtools.paths import ROOT
from devtools.server import Server, has_no_gpu

from .graph import Graph
from .leash import Leash

START = 300  # seconds
ANSWER = 300
"""Seconds in which a server answers at the latest: one that does not hangs.

It answers while it samples, but not while something holds Python's interpreter, as reading a large pickled checkpoint
from a slow disk does.
"""


class Headless(Server):
    """A ComfyUI that ends with this process. It takes a user's own models and nodes where it is a user's own."""

    def __init__(self, host: hosts.Host, is_own: bool, folder: Path, seconds_to_answer: float = ANSWER):
        super().__init__(host, folder, seconds_to_start=START)
        self.is_own, self.seconds_to_answer = is_own, seconds_to_answer
        self.leash: Leash | None = None

    def command(self) -> list[str]:
        return self.own_command() if self.is_own else super().command()

    def wait_until_up(self) -> None:
        self.leash = Leash(self.process.pid, self.folder)
        super().wait_until_up()

    def stop(self) -> None:
        """End the server and remove its folder."""
        super().stop()
        if self.leash is not None:
            self.leash.release()
            shutil.rmtree(self.folder, ignore_errors=True)

    def own_command(self) -> list[str]:
        """Return the command line for a user's own ComfyUI, which keeps nothing of what it makes."""
        pack = self.folder / "pack.yaml"
        pack.write_text(self.pack_path(), encoding="utf-8")
        command = [self.host.python, str(self.host.path / "main.py"), "--port", str(self.port), "--listen", "127.0.0.1"]
        command += ["--extra-model-paths-config", str(pack), "--database-url", "sqlite:///:memory:"]
        for kind in ("output", "temp", "user"):
            command += [f"--{kind}-directory", str(self.folder if kind == "temp" else self.folder / kind)]
        command += ["--disable-auto-launch", *(["--cpu"] if has_no_gpu(self.host.python) else [])]
        return command

    def pack_path(self) -> str:
        """Return extra model paths that add this pack, unless it lies in that ComfyUI already."""
        if ROOT.parent == self.host.path / "custom_nodes":
            return "{}"
        return f"rlg:\n  custom_nodes: {json.dumps(str(self.folder / 'custom_nodes'))}\n"

    def inputs(self) -> Path:
        """Return the folder of the pictures that graphs may load."""
        return (self.host.path if self.is_own else self.folder) / "input"

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def forget_pictures(self) -> None:
        """Remove the pictures that the runs so far have left."""
        for picture in (self.folder / "temp").glob("*.png"):
            picture.unlink(missing_ok=True)


class Running(Server):
    """A ComfyUI that somebody else runs, at an address."""

    def __init__(self, url: str, seconds_to_answer: float = ANSWER):
        self.url, self.seconds_to_answer = url.rstrip("/"), seconds_to_answer

    def __enter__(self) -> Running:
        try:
            self.get("/system_stats")
        except (OSError, ValueError) as error:
            raise Failure(f"no ComfyUI answers at {self.url}: {error}") from error
        return self

    def stop(self) -> None:
        """Leave the server running, without the run that it may be at."""
        if self.is_alive():
            self.read("/interrupt", {})

    def is_alive(self) -> bool:
        try:
            return bool(self.get("/system_stats"))
        except (OSError, ValueError):
            return False

    def fail(self, what: str) -> None:
        raise Failure(f"ComfyUI at {self.url} {what}.")

    def forget_pictures(self) -> None:
        """Leave its pictures to that server, which empties its folder when it starts."""


def local_host(fallback: Mapping[str, str]) -> tuple[hosts.Host, bool]:
    """Return the ComfyUI of this machine, and whether it is a user's own.

    That is the one of COMFYUI_PATH, else the one that RLG_HOST_PATH names here, or named where the sweep was started.
    """
    own = hosts.own_host()
    if own:
        return own, True
    environment = {**fallback, **os.environ}
    if "RLG_HOST_PATH" not in environment:
        raise Failure(
            "no ComfyUI is named: set COMFYUI_PATH on every machine, or use `python dev.py sweep` on this one"
        )
    os.environ.update(environment)
    host = hosts.from_environment()
    if not (host.path / "main.py").exists():
        raise Failure(f"there is no ComfyUI in {host.path}: set COMFYUI_PATH on that machine, before `ray start`")
    return host, False


def run(server: Server, graph: Graph, seconds: float) -> dict:
    """Return the outputs of a graph. Raises TimeoutError where it takes longer than that."""
    return asyncio.run(asyncio.wait_for(server.follow(graph, lambda *_: None), seconds))
