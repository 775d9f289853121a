"""CLIP and VAE of a base file. In place of an absent one stands an object that says so when it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths

from ....rlg_core.errors import AdapterError
from ....rlg_core.formats.container import map_tensors
from .checkpoints import OTHER_PARTS


class AbsentPartError(AdapterError, AttributeError):
    """A CLIP or VAE that the file does not hold was used. Also an `AttributeError`, as `hasattr` expects."""


class AbsentPart:
    """Stands in for a CLIP or VAE that the base file does not hold: any use raises `AbsentPartError`."""

    def __init__(self, part: str, path: Path, remedy: str):
        self.message = f"{path.name} holds no {part}. {remedy}"

    def __getattr__(self, name: str) -> Any:
        raise AbsentPartError(self.message)


def load_parts(path: Path) -> tuple[Any, Any]:
    """CLIP and VAE of the base file, with an `AbsentPart` in place of each that it does not hold."""
    clip = vae = None
    if any(name.startswith(OTHER_PARTS) for name in map_tensors(path).tensors):
        _, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
            str(path), embedding_directory=folder_paths.get_folder_paths("embeddings"), output_model=False
        )
    if clip is None:
        clip = AbsentPart("text encoder", path, "Load one with Load CLIP and connect that instead.")
    if vae is None or vae.first_stage_model is None:
        vae = AbsentPart("VAE", path, "Load one with Load VAE and connect that instead.")
    return clip, vae
