"""The files that the templates for public models name, small and random, in the layouts of the real ones.

Widths and depths are the smallest that the hosts take. What has no small form at all (CLIP-G, T5-XXL, UMT5-XXL and
Qwen2.5-VL: the hosts fix their sizes) has no writer here. VAEs are TAESD's layout, or Wan's at a narrow width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import Tensor

from .architectures import ARCHITECTURES
from .diffusers_models import diffusers_model, with_adapter
from .host_models import host_weights

NOISE = 1 << 22
RANK = 2
UNET_ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
JOINT_ATTENTION = [*UNET_ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
Shapes = Mapping[str, Iterable[int]]


def filled(shapes: Shapes, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep the size of activations; norms one, biases zero."""
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(seed))
    return {name: one(name, tuple(shape), noise, dtype) for name, shape in shapes.items()}


def one(name: str, shape: tuple[int, ...], noise: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor cut from the noise, which repeats where the tensor is longer."""
    if len(shape) < 2:
        return torch.full(shape, float(name.endswith((".weight", ".scale", ".gamma")))).to(dtype)
    count = math.prod(shape)
    cut = (noise[:count] * math.prod(shape[1:]) ** -0.5).to(dtype)
    return cut.repeat(-(-count // NOISE))[:count].reshape(shape)


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def prefixed(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: weight for name, weight in weights.items()}


class PublicFiles:
    """Writes files by name below a `models` folder."""

    def __init__(self, host: SimpleNamespace, models: Path):
        self.models = models
        self.plain = {name: diffusers_model(ARCHITECTURES[name]) for name in NEEDED}
        self.shapes = {name: shapes_of(host_weights(ARCHITECTURES[name], model)) for name, model in self.plain.items()}

    def write(self, directory: str, name: str) -> None:
        """One file; KeyError where nothing is known of it. Of a PEFT folder, both files at once."""
        path = self.models / directory / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            WRITERS[name](self, path)

    def weights(self, name: str, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
        """A model in the host's layout."""
        return filled(self.shapes[name], dtype, seed)

    def peft_folder(self, folder: Path, name: str, targets: list[str], alpha: float) -> None:
        """What PEFT saves of an adapter."""
        import peft

        config = peft.LoraConfig(r=RANK, lora_alpha=alpha, target_modules=targets)
        adapted = with_adapter(self.plain[name], config)
        weights = {key: value.contiguous() for key, value in peft.get_peft_model_state_dict(adapted).items()}
        self.plain[name] = adapted.unload()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
        config.save_pretrained(folder)

    def diffusers_lora(self, path: Path, name: str) -> None:
        """A LoRA on a UNet's attention, as diffusers saves it."""
        found = {}
        for weight, shape in shapes_of(self.plain[name].state_dict()).items():
            module = weight.removesuffix(".weight")
            if weight.endswith(".weight") and module.endswith(tuple(UNET_ATTENTION)):
                found[f"unet.{module}.lora_A.weight"] = (RANK, shape[1])
                found[f"unet.{module}.lora_B.weight"] = (shape[0], RANK)
        save_file(filled(found, torch.float32), path)

    def lora(self, path: Path, name: str, key: Callable[[str], str], chosen: str) -> None:
        """A LoRA by the host's names: `key` makes a module's prefix, `chosen` is part of the modules' names."""
        found = {}
        for weight, shape in self.shapes[name].items():
            if weight.endswith(".weight") and chosen in weight and len(shape) == 2:
                module = key(weight.removesuffix(".weight"))
                found[f"{module}.lora_down.weight"] = (RANK, shape[1])
                found[f"{module}.lora_up.weight"] = (shape[0], RANK)
        assert found, chosen
        alphas = {name.replace("lora_up.weight", "alpha"): torch.tensor(1.0) for name in found if "lora_up" in name}
        save_file(filled(found, torch.float32) | alphas, path)


def taesd(channels: int) -> dict[str, Tensor]:
    """A VAE in TAESD's layout."""
    from comfy.taesd.taesd import TAESD

    shapes = shapes_of(TAESD(latent_channels=channels).state_dict())
    scale = {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}
    return filled(shapes, torch.float32) | scale


def wan_vae() -> dict[str, Tensor]:
    """A VAE in Wan's layout, which the host reads the width off."""
    from comfy.ldm.wan.vae import WanVAE

    options = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "dropout": 0.0}
    model = WanVAE(dim=8, z_dim=16, temperal_downsample=[False, True, True], **options)
    return filled(shapes_of(model.state_dict()), torch.float32)


def clip_l() -> dict[str, Tensor]:
    """SD1.5's text encoder: the one that is small enough as it is."""
    from comfy.sd1_clip import SDClipModel

    return filled(shapes_of(SDClipModel(dtype=torch.float16).transformer.state_dict()), torch.float16)


def sd35(files: PublicFiles, path: Path) -> None:
    weights = prefixed("model.diffusion_model.", files.weights("SD3.5", torch.float32))
    save_file(weights | prefixed("first_stage_model.", taesd(16)), path)


def sdxl(files: PublicFiles, path: Path) -> None:
    weights = prefixed("model.diffusion_model.", files.weights("SDXL", torch.float16))
    save_file(weights | prefixed("first_stage_model.", taesd(4)), path)


def sd15(files: PublicFiles, path: Path) -> None:
    weights = prefixed("model.diffusion_model.", files.weights("SD1.5", torch.float16))
    weights |= prefixed("first_stage_model.", taesd(4)) | prefixed("cond_stage_model.transformer.", clip_l())
    save_file(weights, path)


def dpo(files: PublicFiles, path: Path) -> None:
    """In the host's layout: the real file has diffusers', which the host takes at SDXL's real widths only."""
    save_file(files.weights("SDXL", torch.float16, seed=1), path)


def flux(files: PublicFiles, path: Path) -> None:
    save_file(files.weights("FLUX", torch.float8_e4m3fn), path)


def srpo(files: PublicFiles, path: Path) -> None:
    """FLUX with two small parameters changed: how well a difference compresses is for other tests."""
    weights = files.weights("FLUX", torch.float8_e4m3fn)
    for name in ("img_in.weight", "single_blocks.0.modulation.lin.bias"):
        weights[name] = (weights[name].float() + 0.02).to(torch.float8_e4m3fn)
    save_file(weights, path)


def qwen(files: PublicFiles, path: Path) -> None:
    save_file(files.weights("Qwen-Image", torch.float8_e4m3fn), path)


def qwen_again(files: PublicFiles, path: Path) -> None:
    """The editing model has the same layout."""
    files.write("diffusion_models", "qwen_image_fp8_e4m3fn.safetensors")
    path.hardlink_to(path.with_name("qwen_image_fp8_e4m3fn.safetensors"))


def vae(make: Callable[[], dict[str, Tensor]]) -> Callable[[PublicFiles, Path], None]:
    return lambda files, path: save_file(make(), path)


def model(name: str) -> Callable[[PublicFiles, Path], None]:
    return lambda files, path: save_file(files.weights(name, torch.float32), path)


def peft(name: str, targets: list[str], alpha: float) -> Callable[[PublicFiles, Path], None]:
    return lambda files, path: files.peft_folder(path.parent, name, targets, alpha)


def kohya(module: str) -> str:
    return "lora_unet_" + module.replace(".", "_")


def reward(module: str) -> str:
    """VideoX-Fun's: as kohya's, with two underscores."""
    return "lora_unet__" + module.replace(".", "_")


NEEDED = ("SD1.5", "SDXL", "SD3.5", "FLUX", "Qwen-Image", "Wan 2.1", "Wan 2.2")
FF = ["ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"]
ADAPTERS = {
    "SD3.5M-FlowGRPO-GenEval": ("SD3.5", JOINT_ATTENTION),
    "SD3.5M-DiffusionNFT-MultiReward": ("SD3.5", JOINT_ATTENTION),
    "boxflow-grpo-flux-lora": ("FLUX", [*JOINT_ATTENTION, *FF]),
    "Edit-R1-Qwen-Image-Edit-2509": ("Qwen-Image", JOINT_ATTENTION),
    "your-qwen-image-run": ("Qwen-Image", JOINT_ATTENTION),
}
WRITERS: dict[str, Callable[[PublicFiles, Path], None]] = {
    "sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors": sd35,
    "sd_xl_base_1.0.safetensors": sdxl,
    "v1-5-pruned-emaonly-fp16.safetensors": sd15,
    "dpo-sdxl-text2image-v1.safetensors": dpo,
    "flux1-dev.safetensors": flux,
    "flux.1-dev-SRPO-bf16.safetensors": srpo,
    "ae.safetensors": vae(lambda: taesd(16)),
    "qwen_image_fp8_e4m3fn.safetensors": qwen,
    "qwen_image_edit_2509_fp8_e4m3fn.safetensors": qwen_again,
    "qwen_image_vae.safetensors": vae(wan_vae),
    "wan_2.1_vae.safetensors": vae(wan_vae),
    "wan2.1_fun_inp_1.3B_bf16.safetensors": model("Wan 2.1"),
    "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors": model("Wan 2.2"),
    "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors": model("Wan 2.2"),
    "Wan2.1-Fun-1.3B-InP-HPS2.1.safetensors": lambda f, p: f.lora(p, "Wan 2.1", reward, "_attn."),
    "Wan2.2-Fun-A14B-InP-high-noise-HPS2.1.safetensors": lambda f, p: f.lora(p, "Wan 2.2", reward, "_attn."),
    "Wan2.2-Fun-A14B-InP-low-noise-HPS2.1.safetensors": lambda f, p: f.lora(p, "Wan 2.2", reward, "_attn."),
    "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors": lambda f, p: f.lora(
        p, "Wan 2.2", "diffusion_model.{}".format, "blocks."
    ),
    "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors": lambda f, p: f.lora(
        p, "Wan 2.2", "diffusion_model.{}".format, "blocks."
    ),
    "pixel-art-xl.safetensors": lambda f, p: f.lora(p, "SDXL", kohya, "attn1."),
    "spo_sdxl_10ep_4k-data_lora_diffusers.safetensors": lambda f, p: f.diffusers_lora(p, "SDXL"),
    "spo-sd-v1-5_4k-p_10ep_lora_diffusers.safetensors": lambda f, p: f.diffusers_lora(p, "SD1.5"),
    "sd15_beta500_2kiter.safetensors": lambda f, p: f.diffusers_lora(p, "SD1.5"),
}
"""Writer by the file's name, and those of PEFT folders below."""

for _folder, (_model, _targets) in ADAPTERS.items():
    for _name in ("adapter_config.json", "adapter_model.safetensors"):
        WRITERS[f"{_folder}/{_name}"] = peft(_model, _targets, 2.0 * RANK)
