"""The forms in which a measured model's weights are held: as they were made, quantised, or compiled."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from support import tiny
from support.quantised import scaled_fp8

PLAIN = "plain"
GGUF_PACK = "ComfyUI-GGUF"
ARCHITECTURES = {"SD3": "sd3", "Flux": "flux", "QwenImage": "qwen_image"}
"""What a GGUF file calls a model of this class of the host."""


def held(host: SimpleNamespace, model: Any, form: str) -> Any:
    """`model` in one of `FORMS`. Raises `RuntimeError` where something that is needed is missing."""
    return FORMS[form](host, model)


def as_made(host: SimpleNamespace, model: Any) -> Any:
    return model


def fp8_scaled(host: SimpleNamespace, model: Any) -> Any:
    """Loaded from fp8 weights with a scale each, as most fp8 files have them."""
    quantised = scaled_fp8(tiny.weights_of(model), chosen=is_large)
    return host.comfy.sd.load_diffusion_model_state_dict(quantised)


def is_large(name: str, weight: torch.Tensor) -> bool:
    """Files of quantised models keep the layers around the blocks, and whatever is small, as they are."""
    return "block" in name and weight.ndim == 2 and min(weight.shape) >= 64


def compiled(host: SimpleNamespace, model: Any) -> Any:
    """Behind the host's own node, with its default backend."""
    return host.classes["TorchCompileModel"].execute(model, "inductor").result[0]


def gguf(host: SimpleNamespace, model: Any, kind: str) -> Any:
    """Loaded by ComfyUI-GGUF out of the folder that RLG_PACKS names, from a file of a type (Q8_0, Q4_0)."""
    folder = Path(os.environ.get("RLG_PACKS", "")) / GGUF_PACK
    if not folder.is_dir():
        raise RuntimeError(f"RLG_PACKS names no folder with {GGUF_PACK} in it")
    try:
        from support import gguf_file
    except ImportError as error:
        raise RuntimeError(f"{GGUF_PACK} needs the package gguf ({error})") from error
    if "UnetLoaderGGUF" not in host.classes and not asyncio.run(host.nodes.load_custom_node(str(folder))):
        raise RuntimeError(f"the host could not load {GGUF_PACK}")
    parent = Path(tempfile.mkdtemp(prefix="rlg-gguf-"))
    path = parent / f"{parent.name}.gguf"  # a name of its own: folders stay known to the host
    gguf_file.write(tiny.weights_of(model), path, kind, ARCHITECTURES[type(model.model.model_config).__name__])
    host.folder_paths.add_model_folder_path("diffusion_models", str(parent))
    return host.classes["UnetLoaderGGUF"]().load_unet(path.name)[0]


FORMS: dict[str, Callable[[SimpleNamespace, Any], Any]] = {
    PLAIN: as_made,
    "fp8 scaled": fp8_scaled,
    "GGUF Q8_0": partial(gguf, kind="Q8_0"),
    "GGUF Q4_0": partial(gguf, kind="Q4_0"),
    "torch.compile": compiled,
}
