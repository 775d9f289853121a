"""`python -m sweep WORKFLOW SWEEP --results FOLDER`: see docs/SWEEPS.md for an example.

Exit code: 0 where every unit is done, 1 where some failed or nothing ran, 130 where it was interrupted. The same
command again runs what is missing.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from devtools.console import Failure, end_in_order, say

NEEDS = (3, 11)
"""The oldest Python that has `tomllib`."""


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sweep", description="Run one workflow over prompts, seeds and scales."
    )
    parser.add_argument("workflow", type=Path, help="a workflow in the API format (Workflow > Export (API))")
    parser.add_argument(
        "sweep", type=Path, help="the sweep file (.toml, .yaml): which inputs take which values, which rewards"
    )
    parser.add_argument("--results", required=True, help="the folder of the results, or its address (s3://...)")
    parser.add_argument("--address", default="", help="a Ray cluster; else RAY_ADDRESS, else this machine")
    parser.add_argument("--workers", type=int, default=0, help="how many, each with a ComfyUI (default: one per GPU)")
    parser.add_argument(
        "--server", action="append", default=[], metavar="URL", help="a ComfyUI that runs; may be repeated"
    )
    parser.add_argument("--choose-w", action="store_true", help="spend the pictures on the best scales")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and how long it would take")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    asked = options(arguments)
    if sys.version_info < NEEDS:
        raise Failure(f"{sys.executable} is Python {platform.python_version()}: sweeps need 3.11 or newer.")
    try:
        from .cluster import Shape
        from .session import Order, start
    except ModuleNotFoundError as error:
        raise Failure(
            f"{sys.executable} lacks {error.name}: run `{sys.executable} -m pip install ray pyarrow rich`."
        ) from error
    shape = Shape(asked.address, asked.workers, tuple(asked.server))
    failed = start(Order(asked.workflow, asked.sweep, asked.results, shape, asked.choose_w, asked.dry_run))
    if failed:
        say(f"{failed} units failed three times: {asked.results}/failed tells why; the same command tries them again")
    return int(failed > 0)


if __name__ == "__main__":
    end_in_order()
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        sys.exit(130)
    except Failure as failure:
        say(f"failed: {failure}")
        sys.exit(1)
