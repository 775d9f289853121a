"""What the lane of every node cannot find out by itself: which inputs show, which nodes cannot run here, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file

from .layouts import SmallModels
from .model_patches import qwen_control, uso_style, wan_camera
from .tensors import random

Values = Mapping[str, Any] | Callable[[SmallModels], Mapping[str, Any]]


@dataclass(frozen=True)
class Given:
    """How a node is run where its defaults on the first layouts do not show what it does.

    `layout` "" is the first one on which it shows. `inputs` and `settings` (of the sampling) may be made of the models.
    `shows` False is a node that changes no picture here. `is_slow` runs it at one scale only, `merged` compares it with
    an RL model that has no patches, `unloads` has it find no patches of earlier runs in memory. `reason` says why, or
    what else is special.
    """

    layout: str = ""
    inputs: Values = field(default_factory=dict)
    settings: Values = field(default_factory=dict)
    shows: bool = True
    is_slow: bool = False
    merged: bool = False
    unloads: bool = False
    tolerance: float = 1e-3
    reason: str = ""


def masked(models: SmallModels) -> dict[str, Any]:
    """An inpainting, its mask with soft edges."""
    return {"latent": random(1, 16, 8, 8, seed=2), "mask": torch.linspace(0, 1, 8).expand(1, 8, 8)}


def with_reference(models: SmallModels) -> dict[str, Any]:
    """Prompts that carry a picture, as Kontext and other edit models take it."""
    reference = random(*models.layout.latent, seed=3)
    prompts = {name: models.conditioning(seed) for name, seed in (("positive", 11), ("negative", 12))}
    return {
        "steps": 3,
        **{k: [[text, extra | {"reference_latents": [reference]}]] for k, ((text, extra),) in prompts.items()},
    }


def two_guides(models: SmallModels) -> dict[str, Any]:
    return {"model_negative": models.third, "negative": models.conditioning(12)}


WINDOWS = {
    "context_length": 8,
    "context_overlap": 4,
    "context_schedule": "standard_static",
    "fuse_method": "pyramid",
    "dim": 2,
}
SKIPPED = {"double_layers": "1", "single_layers": "", "start_percent": 0.0, "end_percent": 1.0}
STYLE, HYPERNETWORK = "every_node_style.safetensors", "every_node_hypernetwork.pt"
"""Files that the lane writes for loaders."""

FLOW = ("ModelSamplingAuraFlow", "ModelSamplingSD3")
NOISE = ("ModelSamplingContinuousEDM", "ModelSamplingContinuousV")

GIVEN: dict[str, Given] = {
    "ContextWindowsManual": Given("SD3", WINDOWS, {"shape": (1, 16, 16, 8)}),
    "DifferentialDiffusion": Given("SD3", settings=masked),
    "DualModelGuider": Given(inputs=two_guides),
    "EasyCache": Given("SD1.5", {"reuse_threshold": 3.0, "start_percent": 0.0}, {"steps": 5, "scheduler": "normal"}),
    "FluxKVCache": Given("FLUX.2", settings=with_reference, is_slow=True),
    "HyperTile": Given("SD1.5", {"tile_size": 64, "swap_size": 4, "max_depth": 2}, {"shape": (1, 4, 32, 32)}),
    "HypernetworkLoader": Given("SD1.5", {"hypernetwork_name": HYPERNETWORK}),
    "LazyCache": Given("SD3", {"reuse_threshold": 3.0, "start_percent": 0.0}, {"steps": 5}),
    "LTXVContextWindows": Given("LTXV", {"context_length": 9, "context_overlap": 8}, {"shape": (1, 128, 4, 4, 4)}),
    **{
        name: Given("SD3", {"lora_name": STYLE})
        for name in ("LoraLoader", "LoraLoaderBypass", "LoraLoaderBypassModelOnly", "LoraLoaderModelOnly")
    },
    "LoraModelLoader": Given("SD3"),
    "ModelComputeDtype": Given("SD3", {"dtype": "fp16"}, tolerance=0.2, reason="float16 rounds to 3 digits"),
    "ModelSamplingDiscrete": Given("SD1.5", {"sampling": "v_prediction", "zsnr": True}),
    "ModelSamplingFlux": Given("FLUX", {"max_shift": 0.8}),
    "ModelSamplingLTXV": Given("LTXV"),
    "ModelSamplingStableCascade": Given("SD1.5", is_slow=True, reason="the node takes half a second"),
    "ModelSamplingSD3": Given("SD3", {"shift": 5.0}),
    **{name: Given("SD1.5") for name in NOISE},
    "PerturbedAttentionGuidance": Given("SD1.5"),
    "QwenImageDiffsynthControlnet": Given("Qwen-Image", qwen_control, is_slow=True),
    "ScaleROPE": Given("Wan", {"scale_x": 0.7, "scale_y": 1.5}),
    "SelectModelDevice": Given("SD3", shows=False, reason="there is one device"),
    "SkipLayerGuidanceDiT": Given("SD3", SKIPPED | {"rescaling_scale": 0.3}),
    "SkipLayerGuidanceDiTSimple": Given("SD3", SKIPPED),
    "SkipLayerGuidanceSD3": Given("SD3", {"layers": "1", "start_percent": 0.0, "end_percent": 1.0}),
    "SelfAttentionGuidance": Given("SD1.5", settings={"shape": (1, 4, 16, 16)}),
    "TomePatchModel": Given("SD1.5", settings={"shape": (1, 4, 16, 16)}),
    "UNetTemporalAttentionMultiply": Given("SVD", {"self_structural": 0.8, "cross_temporal": 0.7}, is_slow=True),
    "USOStyleReference": Given("FLUX", uso_style, {"cfg": 1.0}, reason="the node takes one row only"),
    "VideoLinearCFGGuidance": Given("SVD", is_slow=True),
    "VideoTriangleCFGGuidance": Given("SVD", is_slow=True),
    "WanContextWindowsManual": Given("Wan", {"context_length": 5, "context_overlap": 4}, {"shape": (1, 16, 4, 8, 8)}),
    "WanUni3CControlnetApply": Given("Wan", wan_camera, is_slow=True),
    "wanBlockSwap": Given("SD3", shows=False, reason="the node does nothing: it replaces a pack's node of that name"),
}

SAME_CODE = "ModelMergeBlocks"
"""A node whose subclasses run its code with other weights' names: they are run at one scale."""

NOT_HERE: dict[str, str] = {
    "ARVideoI2V": "needs a causal Wan checkpoint",
    "AddNoise": "adds noise and runs no model",
    "AnimaLLLiteApply": "needs an LLLite file for Anima",
    "ChromaRadianceOptions": "needs a Chroma Radiance checkpoint",
    "HiDreamO1PatchSeamSmoothing": "needs a HiDream-O1 checkpoint",
    "LTXVReferenceAudio": "needs sound and an audio VAE",
    "MultiGPU_WorkUnits": "needs two GPUs; RLG refuses models that are split over them",
    "SamplerARVideo": "needs a causal Wan checkpoint; RLG refuses it",
    "SUPIRApply": "needs the SUPIR file",
    "TorchCompileModel": "takes minutes; the host lane runs compiled models",
    "TrainLoraNode": "trains for minutes; RLG refuses to be trained",
    "TripoSplatSamplingPreview": "needs a TripoSplat checkpoint",
    "ZImageFunControlnet": "needs a control network that fits a Z-Image of real width",
    "WanInfiniteTalkToVideo": "needs sound and an InfiniteTalk file",
}


def values(given: Values, models: SmallModels) -> dict[str, Any]:
    return dict(given(models) if callable(given) else given)


@contextmanager
def files_in(host: SimpleNamespace, folder: Path, models: SmallModels) -> Iterator[None]:
    """Files for loaders in `folder`, where the host finds them while the context lasts."""
    save_file(models.style, folder / STYLE)
    layer = {"linear.0.weight": random(64, 64, seed=6, size=0.1), "linear.0.bias": torch.zeros(64)}
    torch.save({64: [layer, layer]}, folder / HYPERNETWORK)
    before = {kind: host.folder_paths.folder_names_and_paths[kind] for kind in ("loras", "hypernetworks")}
    host.folder_paths.folder_names_and_paths |= {kind: ([str(folder)], ends) for kind, (_, ends) in before.items()}
    try:
        yield
    finally:
        host.folder_paths.folder_names_and_paths |= before
