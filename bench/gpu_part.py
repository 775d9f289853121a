"""The GPU's section by itself: `python -m bench gpu`."""

from __future__ import annotations

import torch

from . import bars, gpu, report
from .suite import Results

TITLE = "GPU"
ROUNDS, STEPS = 3, 6
NO_GPU = """No GPU here: not measured. Where there is one, `python dev.py bench gpu` measures each of these in a process
of its own: time per step of plain CFG, exact RLG (batched and in two passes), a budget, weight patching and the paper's
loop."""
UNWRITTEN = "Quantised files (fp8 scaled, GGUF), torch.compile, Qwen-Image and Wan are not measured by any command yet."


def run() -> str:
    found = gpu.run(ROUNDS, STEPS)
    if not found:
        rows = [(geometry.name, mode, bars.NOT_MEASURED) for geometry in gpu.geometries() for mode in gpu.MODE_NAMES]
        told = report.table(("model", "weights", "time per step, x plain CFG"), rows)
        return f"{NO_GPU}\n\n{told}\n\n{UNWRITTEN}"
    device = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {report.machine()}"
    kept = report.table(("bar", "measured", "holds"), gpu_bars(found))
    return f"{device}\n\n{kept}\n\n{report.gpu_tables(found)}\n\n{UNWRITTEN}"


def gpu_bars(found: dict) -> list[bars.Row]:
    """The bars of a step's time, for each case that ran."""
    rows = list(bars.streamed(Results(gpu=found)))
    for (geometry, mode), timings in found.items():
        if not isinstance(timings, str) and gpu.is_on_card(mode):
            ratio = bars.ratio_to_plain(timings)
            rows.append(bars.row(f"exact RLG at most 2.05 x plain CFG, {geometry}", f"{ratio:.2f} x", ratio <= 2.05))
    return rows
