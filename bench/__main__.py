"""`python -m bench [--quick] [--threads 1]`: measures everything and writes RESULTS.md.

RLG_HOST_PATH names the ComfyUI to measure on; `python dev.py bench` sets it. `--quick` measures a little of everything
in under a minute and leaves its report in a temporary folder.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import torch

from . import host


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a little of everything, for a look")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch on a CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    host.start()
    logging.getLogger().setLevel(logging.ERROR)  # the host tells every load of a model
    from . import report, suite

    folder = Path(tempfile.mkdtemp(prefix="rlg-bench-")) if arguments.quick else host.ROOT / "bench"
    for results in suite.run(suite.QUICK if arguments.quick else suite.FULL):
        written = report.write(results, folder)
    print(written.read_text(encoding="utf-8"))
    host.say(f"wrote {written}")


if __name__ == "__main__":
    main()
