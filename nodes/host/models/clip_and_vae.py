"""CLIP and VAE of a base file. In place of one that cannot be had stands an object that says so when it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths

from ....rlg_core.errors import AdapterError
from ....rlg_core.formats import map_model
from ..compat import ONE_SIDED_VAE, UNUSED_IN_CLIP
from .checkpoints import LOAD_ERRORS, OTHER_PARTS, listening, reason_of
from .files import is_gguf

NAMES = {"clip": "text encoder", "vae": "VAE"}
REMEDIES = {
    "clip": "Load one with Load CLIP and connect that instead.",
    "vae": "Load one with Load VAE and connect that instead.",
}


class AbsentPartError(AdapterError, AttributeError):
    """A CLIP or VAE that the file does not hold was used. Also an `AttributeError`, as `hasattr` expects."""


class AbsentPart:
    """Stands in for a CLIP or VAE that the base file cannot give: any use raises `AbsentPartError`."""

    def __init__(self, message: str):
        self.message = message

    def __getattr__(self, name: str) -> Any:
        raise AbsentPartError(self.message)


def load_parts(path: Path) -> tuple[Any, Any]:
    """CLIP and VAE of the base file, with an `AbsentPart` in place of each that it does not hold, or not whole."""
    there = not is_gguf(path) and any(name.startswith(OTHER_PARTS) for name in map_model(path).tensors)
    return _part("clip", path, there), _part("vae", path, there)


def _part(part: str, path: Path, there: bool) -> Any:
    """The part itself. One that is broken must not stand in the way of a base that is used without it."""
    try:
        with listening(part) as heard:
            loaded = _loaded(part, path) if there else None
    except LOAD_ERRORS as error:
        return AbsentPart(f"{path.name}: its {NAMES[part]} cannot be loaded ({reason_of(error)}). {REMEDIES[part]}")
    lacking = [name for name in heard.names if not _can_do_without(part, name)]
    if lacking:
        return AbsentPart(
            f"{path.name}: its {NAMES[part]} is not whole, {len(lacking)} weights are missing, first {lacking[0]}. "
            + REMEDIES[part]
        )
    return AbsentPart(f"{path.name} holds no {NAMES[part]}. {REMEDIES[part]}") if loaded is None else loaded


def _loaded(part: str, path: Path) -> Any:
    """The part as the host's own checkpoint loader makes it, or None if the file holds none."""
    _, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
        str(path),
        output_clip=part == "clip",
        output_vae=part == "vae",
        output_model=False,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
    )
    return vae if vae is not None and vae.first_stage_model is not None else clip


def _can_do_without(part: str, name: str) -> bool:
    return name.startswith(ONE_SIDED_VAE) if part == "vae" else name.endswith(UNUSED_IN_CLIP)
