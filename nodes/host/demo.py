"""The demo that lies beside the pack in its repository; a registry's copy has none."""

from __future__ import annotations

from pathlib import Path

import folder_paths

DEMO = Path(__file__).resolve().parents[2] / "demo"

for models in sorted((DEMO / "models").glob("*")):  # so that the templates run as they are
    folder_paths.add_model_folder_path(models.name, str(models))
