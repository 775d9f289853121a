"""What RLG costs beside the other ways of sampling from two models: `python -m bench` writes RESULTS.md."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # for `support`, the tests' models and hosts
