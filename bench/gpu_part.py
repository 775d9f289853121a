"""The GPU's section: `python -m bench gpu`, or `python -m bench.gpu_part TEXT ...` for cases whose names have a text.

Each case is written as soon as it is measured, so that a run which is cut short leaves what it has; the others stay as
they were.
"""

from __future__ import annotations

import sys

import torch

from . import bars, gpu, host, report, sections
from .measure import Timing

TITLE = "GPU"
ROUNDS, STEPS = 3, 6
BLOCK = "### "
HOW = """`python dev.py bench gpu` measures each case in a process of its own where there is a GPU: time per step of
plain CFG and of exact RLG (batched and in two passes) for all; a budget, weight patching and the paper's loop for
models that are neither quantised nor compiled. GGUF needs ComfyUI-GGUF in the folder that RLG_PACKS names. Wan is not
measured by any command yet."""
PATH = host.ROOT / "bench" / "RESULTS.md"


def run(texts: tuple[str, ...] = ()) -> str:
    """The section; of the cases that have any of `texts` in their names (all, if there are none), measured anew."""
    found = blocks()
    for case in gpu.cases():
        if torch.cuda.is_available() and any(text in case.name for text in texts or ("",)):
            host.say(case.name)
            found[case.name] = told(case, gpu.run(case, ROUNDS, STEPS))
            sections.put(PATH, TITLE, section(found))
    return section(found)


def blocks() -> dict[str, str]:
    """What the section says of each case so far."""
    text = sections.read(PATH)[1].get(TITLE, "")
    parts = (part.partition("\n") for part in f"\n{text}".split(f"\n{BLOCK}")[1:])
    return {name: own.strip("\n") for name, _, own in parts}


def section(found: dict[str, str]) -> str:
    names = [case.name for case in gpu.cases()]
    missing = [name for name in names if name not in found]
    told = [f"{BLOCK}{name}\n\n{found[name]}" for name in names if name in found]
    rest = report.table(("case", "time per step, x plain CFG"), [(name, bars.NOT_MEASURED) for name in missing])
    return "\n\n".join([HOW, *([rest] if missing else []), *told])


def told(case: gpu.Case, timings: dict[str, Timing] | str) -> str:
    if isinstance(timings, str):
        return f"Not measured: {timings}"
    most = 1.25 if case.mode.streamed else 2.05
    ratio = bars.ratio_to_plain(timings)
    bar = f"exact RLG at most {most} x plain CFG"
    machine = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}; {report.machine()}"
    kept = report.table(("bar", "measured", "holds"), [bars.row(bar, f"{ratio:.2f} x", ratio <= most)])
    return f"{machine}\n\n{kept}\n\n{report.timings(timings)}"


if __name__ == "__main__":
    host.start()
    sections.put(PATH, TITLE, run(tuple(sys.argv[1:])))
