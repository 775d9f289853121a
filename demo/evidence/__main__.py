"""`python -m demo.evidence`: measures the demo pair in the host named by RLG_HOST_PATH and writes docs/EVIDENCE.md.

With --through-sweep it measures a part of it with `python -m sweep` instead, and compares the figures.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch

from . import run
from .sizes import FULL, QUICK

ROOT = Path(__file__).resolve().parents[2]
STARTED = time.time()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evidence", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a few pictures of everything, to .rlg/evidence, in a minute"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="sample no longer than this (0: the page only)",
    )
    parser.add_argument("--parts", nargs="+", choices=run.PARTS, default=list(run.PARTS), help="measure these alone")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")
    parser.add_argument(
        "--through-sweep",
        action="store_true",
        help="make two pictures per prompt of the composition part with a sweep, to .rlg/evidence/sweep, and compare: "
        "status 1 where more than rounding differs",
    )
    chosen = parser.parse_args()
    if chosen.through_sweep and (chosen.fresh or chosen.minutes is not None or chosen.parts != list(run.PARTS)):
        parser.error("--through-sweep goes with --quick alone")
    return chosen


def say(text: str) -> None:
    print(f"[{time.time() - STARTED:5.0f} s] {text}", flush=True)


def main() -> None:
    from bench import host as started

    options = arguments()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    home = Path(os.environ.get("RLG_HOME") or ROOT / ".rlg") / "evidence"
    page = home / "quick" / "EVIDENCE.md" if options.quick else ROOT / "docs" / "EVIDENCE.md"
    sizes = QUICK if options.quick else FULL
    if options.through_sweep:
        from . import swept  # here: it needs pyarrow

        archive = page.parent / "evidence" / run.ARCHIVE
        sys.exit(swept.main(started.start, sizes, run.prompts_of(sizes), home / "sweep", archive))
    say(f"starting ComfyUI {started.version()}")
    host = started.start()
    until = None if options.minutes is None else STARTED + 60 * options.minutes
    run.run(host, started.version(), sizes, page, options.parts, say, until, options.fresh)
    say(f"written: {page}")


if __name__ == "__main__":
    main()
