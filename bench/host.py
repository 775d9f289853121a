"""The real ComfyUI in this process, started as the tests start it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from support.host import import_host, load_pack, start_host

STARTED = time.perf_counter()
ROOT = Path(__file__).resolve().parents[1]


def say(text: str) -> None:
    """A line of progress with the seconds since the start."""
    print(f"[{time.perf_counter() - STARTED:5.0f} s] {text}", flush=True)


def host_path() -> Path:
    """The folder that RLG_HOST_PATH names."""
    if "RLG_HOST_PATH" not in os.environ:
        raise SystemExit("RLG_HOST_PATH names no ComfyUI folder. `python dev.py bench` sets it.")
    return Path(os.environ["RLG_HOST_PATH"])


@cache
def start(**settings: Any) -> SimpleNamespace:
    """The host with the pack loaded; `settings` are set on its command-line arguments (`lowvram=True`)."""
    if settings:
        sys.path.insert(0, str(host_path()))
        import comfy.cli_args

        vars(comfy.cli_args.args).update(settings)
    return start_host(host_path())


def version() -> str:
    """The version of the host, as its own file says it."""
    text = (host_path() / "comfyui_version.py").read_text(encoding="utf-8")
    return text.split('"')[1]


def import_seconds(times: int) -> list[float]:
    """How long the host needs to load the pack, once the host itself is imported; a process each.

    One more goes first and does not count: it leaves the compiled files that every start but the first has.
    """
    return [float(_child("bench.host").split()[-1]) for _ in range(times + 1)][1:]


def _child(module: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", module]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def _print_import_seconds() -> None:
    """Starts the host as the tests do; the clock runs while it loads the pack."""
    host = import_host(host_path())
    started = time.process_time()
    load_pack(host)
    print(time.process_time() - started)


if __name__ == "__main__":
    torch.set_num_threads(1)
    _print_import_seconds()
