"""The third-party packs that are run where somebody has them: which they are, and what their nodes need to show."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

from . import pack_inputs
from .known_nodes import STYLE, Given, masked
from .node_graphs import listed
from .node_inputs import outputs

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

ANIMATED = ("ADE_AnimateDiffLoaderGen1", "ADE_AnimateDiffLoaderV1Advanced", "ADE_AnimateDiffLoaderWithContext")
COMPILED = (
    *("CompileModel", "ClownpileModelWanVideo", "EnhancedCompileModel", "TorchCompileModelAdvanced"),
    *("TorchCompileModelAura", "TorchCompileModelFluxAdv", "TorchCompileModelFluxAdvancedV2", "TorchCompileModels"),
    *("TorchCompileModelQwenImage", "TorchCompileModelSD35", "TorchCompileModelWanVideoV2"),
)
SAGE = (
    *("LTX2MemoryEfficientSageAttentionPatch", "MiniMaxH3MemoryEfficientSageAttentionPatch"),
    *("MiniMaxLowVRAMAttention", "PathchSageAttentionKJ", "WanVideoMemoryEfficientSageAttentionPatch"),
)
HUNYUAN = ("ApplyRifleXRoPE_HunuyanVideo", "HunyuanVideoEncodeKeyframesToCond", "LeapfusionHunyuanI2VPatcher")
LTX2 = ("LTX2AttentionTunerPatch", "LTX2AudioLatentNormalizingSampling", "LTX2LoraLoaderAdvanced", "LTX2_NAG")
FACES = ("IPAAdapterFaceIDBatch", "IPAdapterFaceID", "IPAdapterFaceIDKolors")
CASCADE = ("UltraSharkSampler", "UltraSharkSampler Tiled")
BY_FILE = ("IPAdapterUnifiedLoader", "IPAdapterUnifiedLoaderCommunity", "IPAdapterUnifiedLoaderFaceID")
STYLED = ("IPAdapterStyleComposition", "IPAdapterStyleCompositionBatch")
REGIONAL = ("ReWanPatcher", "ReWanPatcherAdvanced")
ON_CUDA = (
    *("legacy_rk", "Legacy_ClownSampler", "Legacy_ClownsharKSampler", "ModelMemoryUseReportPatch"),
    "ModelPatchTorchSettings",
    *("ClownInpaint", "ClownInpaintSimple", "ReFluxPatcher", "ReFluxPatcherAdvanced"),
    *("ReLTXVPatcher", "ReLTXVPatcherAdvanced", "ReSD35Patcher", "ReSD35PatcherAdvanced", "ReSDPatcher"),
)
OTHERS = (
    *("ReAuraPatcher", "ReAuraPatcherAdvanced", "ReChromaPatcher", "ReChromaPatcherAdvanced", "ReHiDreamPatcher"),
    "ReHiDreamPatcherAdvanced",
)
IN_PLACE = ("FluxOrthoCFGPatcher", "ModelSamplingAdvanced", "ModelSamplingAdvancedResolution", "ModelTimestepPatcher")
EXPANDED = ("PCLazyLoraLoader", "PCLazyLoraLoaderAdvanced")
UNCHANGED = (
    *("Context (rgthree)", "Context Big (rgthree)", "ContextWindowsVisualizerKJ", "ModelPassThrough"),
    *("PatchModelPatcherOrder", "Power Prompt (rgthree)", "SDXL Power Prompt - Positive (rgthree)", "VRAM_Debug"),
    "WanVideoTeaCacheKJ",
)

NOT_HERE: dict[str, str] = {
    **dict.fromkeys((*ANIMATED, "AnimateDiffLoaderV1"), "needs a motion model of AnimateDiff"),
    **dict.fromkeys(COMPILED, "compiles for minutes; the host lane runs compiled models"),
    **dict.fromkeys(SAGE, "needs a GPU with SageAttention"),
    **dict.fromkeys(HUNYUAN, "needs a HunyuanVideo checkpoint"),
    **dict.fromkeys(LTX2, "needs an LTX-2 checkpoint"),
    **dict.fromkeys(IN_PLACE, "changes the loaded model itself, for every graph that has it"),
    **dict.fromkeys(EXPANDED, "becomes stock LoRA loaders when its graph is run"),
    **dict.fromkeys(UNCHANGED, "hands on the model as it is"),
    **dict.fromkeys(ON_CUDA, "needs a GPU"),
    **dict.fromkeys(OTHERS, "needs a checkpoint of AuraFlow, Chroma or HiDream"),
    **dict.fromkeys(FACES, "needs InsightFace, which looks for faces"),
    **dict.fromkeys(STYLED, "needs an SDXL of real width"),
    **dict.fromkeys(BY_FILE, "loads IP-Adapters by the names of public files"),
    **dict.fromkeys(CASCADE, "needs a Stable Cascade checkpoint"),
    "GenerateNoise": "makes noise and runs no model",
    "Ideogram4OptimizationsKJ": "needs an Ideogram 4 checkpoint",
    "Krea2PromptWeight": "needs a Krea 2 checkpoint",
    "Latent Match Channelwise": "matches latents and runs no model",
    **dict.fromkeys(("LTX2SamplingPreviewOverride", "ModelPreviewOverrideKJ"), "changes previews only"),
    "MiniMaxChunkFeedForward": "needs a MiniMax checkpoint",
    "NABLA_AttentionKJ": "needs a Kandinsky 5 checkpoint",
    "PiDColorBiasCorrection": "needs a PiD checkpoint",
    "PatchFlashAttentionKJ": "needs a GPU with FlashAttention",
    "PCAnimaAttnCouplePatch": "needs an Anima checkpoint",
    "SkipLayerGuidanceWanVideo": "works with the pack's own TeaCache only, which does nothing any more",
    "VelocatorQuantizeModel": "needs the closed package velocator",
}

KINDS = {"KSampler (Efficient)": "sampling node", "KSampler Adv. (Efficient)": "sampling node"}
"""The kinds of nodes that hand on their model beside what they make."""

LAST = ("ADE_UseEvolvedSampling",)
"""Nodes that replace functions of the host's while they sample, and leave them so where two runs take turns."""

PICTURED = (
    *("IPAdapter", "IPAdapterAdvanced", "IPAdapterBatch", "IPAdapterClipVisionEnhancer", "IPAdapterMS"),
    *("IPAdapterClipVisionEnhancerBatch", "IPAdapterPreciseComposition", "IPAdapterPreciseCompositionBatch"),
    *("IPAdapterPreciseStyleTransfer", "IPAdapterPreciseStyleTransferBatch", "IPAdapterTiled", "IPAdapterTiledBatch"),
)
PROMPTED = ("ClownsharKSampler", "ClownsharKSampler_Beta")
CLOWN = ("SamplerOptions_GarbageCollection", "SamplerOptions_TimestepScaling")
CHAINED = ("ClownsharkChainsampler_Beta", "SharkChainsampler_Beta")
ALL_BLOCKS = {"unet_block_list": ""}
SLIGHTLY = dict.fromkeys(("joint_blocks", "final_layer", "rest_of_the_blocks"), 0.001)
PARTS = {"chunks": 2, "dim_threshold": 1}
STEPS = {"steps": 5}
ONE_ROW = {"steps": 4, "cfg": 1.0}
TILES = {"tile_width": 128, "tile_height": 128, "tile_overlap": 32}
EFFICIENT = {"steps": 3, "vae_decode": "false", "preview_method": "none", "prompt": {"1": {}}, "my_unique_id": "1"}
POWER_LORA = {"lora_1": {"on": True, "lora": STYLE, "strength": 1.0}}

GIVEN: dict[str, Given] = {
    "ADE_AnimateDiffUnload": Given("SD1.5", shows=False, merged=True, reason="its model cannot take patches out again"),
    "ADE_PerturbedAttentionGuidanceMultival": Given("SD1.5", {"scale_multival": 3.0}),
    "ADE_RescaleCFGMultival": Given("SD1.5", {"mult_multival": 0.7}),
    "ADE_UseEvolvedSampling": Given("SD1.5", shows=False, reason="it shows with a motion model only"),
    "ApplyFBCacheOnModel": Given("SD1.5", {"residual_diff_threshold": 0.9}, STEPS),
    "AutoGuidanceCFGGuider": Given("SD1.5", pack_inputs.bad_version),
    "CheckpointPerturbWeights": Given("SD3", SLIGHTLY, tolerance=0.01, reason="by how much: as weights lie in memory"),
    "DiTBlockLoraLoader": Given("SD3", {"lora_name": STYLE}),
    "DifferentialDiffusionAdvanced": Given("SD3", settings=masked),
    "IPAdapterEmbeds": Given("SD1.5", pack_inputs.image_prompt),
    "IPAdapterEmbedsBatch": Given("SD1.5", pack_inputs.image_prompt),
    **{name: Given("SD1.5", EFFICIENT) for name in KINDS},
    **{name: Given("SD1.5", pack_inputs.seen_picture) for name in PICTURED},
    "IPAdapterFromParams": Given("SD1.5", pack_inputs.scheduled_picture),
    **{name: Given("SD3", pack_inputs.prompted) for name in PROMPTED},
    **{name: Given("SD3", pack_inputs.clown_sampler) for name in CLOWN},
    **{name: Given("SD3", pack_inputs.half_sampled) for name in CHAINED},
    **{name: Given("Wan", shows=False, reason="it shows with regional prompts only") for name in REGIONAL},
    "SharkSampler_Beta": Given("SD3", pack_inputs.shark),
    "Lora Loader Stack (rgthree)": Given("SD3", {"lora_01": STYLE}),
    "LTXVChunkFeedForward": Given("LTXV", PARTS, shows=False, reason="it computes the same in parts"),
    "LatentInpaintTTM": Given("SD3", pack_inputs.moving, ONE_ROW, reason="the node takes one row only"),
    "ModelMemoryUsageFactorOverride": Given("SD3", shows=False, reason="it changes where weights lie"),
    "Power Lora Loader (rgthree)": Given("SD3", POWER_LORA),
    "TeaCache": Given("FLUX", {"rel_l1_thresh": 10.0, "cache_device": "cpu"}, STEPS),
    "TiledDiffusion": Given("SD1.5", TILES, {"shape": (1, 4, 24, 24)}),
    "TokenPerturbationGuidance": Given("SD1.5", ALL_BLOCKS, unloads=True, reason="it wraps what earlier runs left"),
    "WanChunkFeedForward": Given("Wan", PARTS, shows=False, reason="it computes the same in parts"),
    "WanVideoEnhanceAVideoKJ": Given("Wan", {"weight": 4.0}),
    "WanVideoNAG": Given("Wan"),
}


def packs() -> tuple[str, ...]:
    """The packs of this run: the one that RLG_PACK names, as some replace functions of the host's, or all."""
    return tuple(filter(None, [os.environ.get("RLG_PACK")])) or PACKS


def folder_of(pack: str) -> Path | None:
    """The folder of a pack, None where RLG_PACKS names none that has it, or RLG_PACK another pack."""
    path = Path(os.environ.get("RLG_PACKS", ""), pack)
    return path if os.environ.get("RLG_PACKS") and pack in packs() and path.is_dir() else None


def version_of(folder: Path) -> str:
    """The version that a pack says it has, and the commit of a checkout; "" where there is neither."""
    file = folder / "pyproject.toml"
    found = re.search(r'^version\s*=\s*"([^"]+)"', file.read_text(encoding="utf-8"), re.M) if file.exists() else None
    command = ("git", "-C", str(folder), "rev-parse", "--short", "HEAD")
    commit = (
        subprocess.run(command, capture_output=True, text=True, check=False) if (folder / ".git").exists() else None
    )
    parts = [found.group(1) if found else "", f"({commit.stdout.strip()})" if commit and commit.stdout else ""]
    return " ".join(filter(None, parts))


class Heard(logging.Handler):
    """What the host says of a pack that it cannot load."""

    said = ""
    BEFORE_REASON = ("custom nodes: ", "Error while calling comfy_entrypoint in ")

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        for words in self.BEFORE_REASON:
            if words in said:
                self.said = without_paths(said.partition(words)[2])


def without_paths(said: str) -> str:
    """What was said, without the folders of the machine that it was said on."""
    return re.sub(r"([^\s(]*/)+(?=[\w-]+(\.py)?\b)", "", said)


def load(host: SimpleNamespace, folder: Path) -> tuple[list[tuple[str, str]], str]:
    """The (kind, name) of a pack's nodes that have to do with a model, or none and why it does not load."""
    start_server()
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
    return listed(host, [name for name in host.classes if name not in nodes and is_declared(host, name)], added), ""


def start_server() -> None:
    """Makes the host's server, as its `main` does before it loads packs: many add routes to it."""
    from comfy.cli_args import args
    from server import PromptServer

    if not hasattr(PromptServer, "instance"):
        args.front_end_root = os.environ.get("RLG_HOST_FRONTEND") or None
        PromptServer(asyncio.new_event_loop())


def is_declared(host: SimpleNamespace, name: str) -> bool:
    """Whether this release of the host understands what a node declares of itself."""
    try:
        outputs(host.classes[name])
    except (AttributeError, TypeError):
        return False
    return True
