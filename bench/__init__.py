"""What RLG costs beside the other ways of sampling from two models: `python -m bench` writes RESULTS.md."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # for `support`, the tests' models and hosts

PARTS = {
    "gpu": "gpu_part",
    "device": "device",
    "extraction": "extraction",
    "merged": "merged",
    "segmented": "segmented",
    "cap": "cap",
    "budgets": "budget_grid",
    "choosing": "choosing",
}
"""What can be measured by itself, and the module that does it: its `run` returns the text of the section `TITLE`."""

TITLES = (
    "GPU",
    "What a step asks of a device",
    "Extraction from files",
    "Merged experts",
    "Segmented guidance",
    "Bounding guidance at high scales",
    "Budgets over scales, steps and samplers",
    "Ways to choose a scale",
)
"""The sections that parts alone write, in RESULTS.md's order: a run of everything leaves them as they are."""
