"""`python -m bench.sweep_hangs`: a sweep whose ComfyUI is stopped (SIGSTOP), and then its worker.

What is stopped keeps its sockets open and answers nothing, as a process does that hangs. Ends with a table in Markdown:
how long it took until the sweep went on by itself; and with status 1 where a unit is missing or failed. Nearly all of
the time is waiting: a worker is given what its unit may take, and what a server's start may take, before it counts as
lost.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from devtools.console import end_in_order
from support.sweeping import PATIENCE, SCALES, Command, graph, parts, sweep_of, written
from sweep.store import Store

from .host import say, version

STOPPED = {"its ComfyUI": "--base-directory", "the worker": "ray::Worker"}
TIMEOUT = 60
"""Seconds that a unit may take here."""


def main() -> int:
    argparse.ArgumentParser(prog="python -m bench.sweep_hangs", description=__doc__.split("\n")[0]).parse_args()
    lines = []
    with tempfile.TemporaryDirectory(prefix="rlg-hangs-") as name:
        folder = Path(name)
        content = sweep_of() | {"run": {"timeout": TIMEOUT}}
        with Command(written(folder, graph(), content), folder / "results", "--workers", "1") as command:
            command.until_done(2)
            for what, part in STOPPED.items():
                lines.append(f"| {what} | {stopped(command, part):.0f} |")
                say(lines[-1])
            code = command.process.wait(PATIENCE)
            left = command.leavings()
        store = Store(str(folder / "results"))
        complete = len(store.rows()) == 10 * len(SCALES) and not store.failures() and code == 0 and not left
        print(f"ComfyUI {version()}, one worker, [run] timeout = {TIMEOUT}; every unit done once: {complete}\n")
        print("\n".join(["| stopped | seconds until two more units were done |", "| --- | --- |", *lines]), flush=True)
        if not complete:
            print(command.told())
    return int(not complete)


def stopped(command: Command, part: str) -> float:
    """Stop a process of the sweep; return the seconds until two more units are done (one may be at its very end)."""
    (process,) = command.named(part)
    process.send_signal(signal.SIGSTOP)
    started, done = time.monotonic(), len(parts(command.results))
    command.until_done(done + 2)
    return time.monotonic() - started


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
