"""`python -m bench [part ...] [--quick] [--threads 1]`: measures everything, or parts, and writes RESULTS.md.

RLG_HOST_PATH names the ComfyUI to measure on; `python dev.py bench` sets it. `--quick` measures a little of everything
in under a minute and leaves its report in a temporary folder. A part rewrites its own section.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from importlib import import_module
from pathlib import Path

import torch

from . import PARTS, host, report, sections, suite


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"these sections alone: {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="a little of everything, for a look")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch on a CPU")
    arguments = parser.parse_args()
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}, expected {', '.join(PARTS)}")
    torch.set_num_threads(arguments.threads)
    modules = {part: import_module(f"bench.{PARTS[part]}") for part in arguments.parts}
    host.start()
    logging.getLogger().setLevel(logging.ERROR)  # the host tells every load of a model
    measure_parts(modules) if modules else measure_all(arguments.quick)


def measure_parts(modules: dict) -> None:
    path = host.ROOT / "bench" / "RESULTS.md"
    for module in modules.values():
        text = module.run()
        print(f"## {module.TITLE}\n\n{text}\n", flush=True)
        sections.put(path, module.TITLE, text)
        host.say(f"wrote {module.TITLE} in {path}")


def measure_all(quick: bool) -> None:
    folder = Path(tempfile.mkdtemp(prefix="rlg-bench-")) if quick else host.ROOT / "bench"
    for results in suite.run(suite.QUICK if quick else suite.FULL):
        written = report.write(results, folder)
    print(written.read_text(encoding="utf-8"))
    host.say(f"wrote {written}")


if __name__ == "__main__":
    main()
