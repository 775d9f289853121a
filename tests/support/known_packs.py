"""The third-party packs that are run where somebody has them: which they are, and what their nodes need to show."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from pathlib import Path
from types import SimpleNamespace

from .known_nodes import Given
from .node_graphs import listed

PACKS = (
    "Comfy-WaveSpeed",
    "ComfyUI-Advanced-ControlNet",
    "ComfyUI-AnimateDiff-Evolved",
    "ComfyUI-AutoGuidance",
    "ComfyUI-GGUF",
    "ComfyUI-Impact-Pack",
    "ComfyUI-KJNodes",
    "ComfyUI-TeaCache",
    "ComfyUI-TiledDiffusion",
    "ComfyUI_IPAdapter_plus",
    "ComfyUI_UltimateSDUpscale",
    "RES4LYF",
    "comfyui-prompt-control",
    "efficiency-nodes-comfyui",
    "rgthree-comfy",
    "sd-perturbed-attention",
)
"""The folders of their public repositories."""

ANIMATED = "needs a motion model of AnimateDiff"
COMPILED = "compiles for minutes"

NOT_HERE: dict[str, str] = {
    **dict.fromkeys(
        (
            "ADE_AnimateDiffLoaderGen1",
            "ADE_AnimateDiffLoaderV1Advanced",
            "ADE_AnimateDiffLoaderWithContext",
            "AnimateDiffLoaderV1",
        ),
        ANIMATED,
    ),
    **dict.fromkeys(
        (
            "CompileModel",
            "EnhancedCompileModel",
            "TorchCompileModelAdvanced",
            "TorchCompileModelFluxAdvancedV2",
            "TorchCompileModelQwenImage",
            "TorchCompileModelWanVideoV2",
        ),
        COMPILED,
    ),
    "VelocatorQuantizeModel": "needs the closed package velocator",
}

WRONG_THERE: dict[str, str] = {
    "NormalizedAttentionGuidance": "it projects its negative prompt with the weights that are in memory when it is run",
}
"""Nodes that are wrong with any patched model, and so with RLG: nothing in the graph shows it."""

STEPS = {"steps": 5}
TILES = {"tile_width": 128, "tile_height": 128, "tile_overlap": 32}

GIVEN: dict[str, Given] = {
    "ADE_AnimateDiffUnload": Given("SD1.5", shows=False, reason="there is nothing to unload"),
    "ADE_UseEvolvedSampling": Given("SD1.5", shows=False, reason="it shows with a motion model only"),
    "ApplyFBCacheOnModel": Given("SD1.5", {"residual_diff_threshold": 0.9}, STEPS),
    "TeaCache": Given("FLUX", {"rel_l1_thresh": 10.0, "cache_device": "cpu"}, STEPS),
    "TiledDiffusion": Given("SD1.5", TILES, {"shape": (1, 4, 24, 24)}),
    "WanVideoEnhanceAVideoKJ": Given("Wan", {"weight": 4.0}),
    "WanVideoNAG": Given("Wan"),
    "WanVideoTeaCacheKJ": Given("Wan", {"rel_l1_thresh": 10.0, "start_percent": 0.0}, STEPS),
}


def folder_of(pack: str) -> Path | None:
    """The folder of a pack, None where RLG_PACKS names none that has it."""
    path = Path(os.environ.get("RLG_PACKS", ""), pack)
    return path if os.environ.get("RLG_PACKS") and path.is_dir() else None


def version_of(folder: Path) -> str:
    """The version that a pack says it has; "" where it says none."""
    file = folder / "pyproject.toml"
    found = re.search(r'^version\s*=\s*"([^"]+)"', file.read_text(encoding="utf-8"), re.M) if file.exists() else None
    return found.group(1) if found else ""


class Heard(logging.Handler):
    """What the host says of a pack that it cannot load."""

    said = ""

    def emit(self, record: logging.LogRecord) -> None:
        if "Cannot import" in record.getMessage():
            self.said = record.getMessage().partition("custom nodes: ")[2] or record.getMessage()


def load(host: SimpleNamespace, folder: Path) -> tuple[list[tuple[str, str]], str]:
    """The (kind, name) of a pack's nodes that have to do with a model, or none and why it does not load."""
    nodes, samplers = set(host.classes), set(host.comfy.samplers.SAMPLER_NAMES)
    heard = Heard()
    logging.getLogger().addHandler(heard)
    try:
        loaded = asyncio.run(host.nodes.load_custom_node(str(folder), module_parent="custom_nodes"))
    finally:
        logging.getLogger().removeHandler(heard)
    if not loaded:
        return [], heard.said or "the host could not load it"
    added = [name for name in host.comfy.samplers.SAMPLER_NAMES if name not in samplers]
    return listed(host, [name for name in host.classes if name not in nodes], added), ""
