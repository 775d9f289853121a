"""Cases of the paper (arXiv 2508.21016) against two separate models, their files as the public ones are laid out.

Preference (SDXL and SPO), composition and text (SD3.5 Medium and Flow-GRPO), inpainting, personalised generation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from support import guiding, tiny
from support.layouts import SmallModels
from support.sampling import Sampling, unet_sampling
from support.saved import use_loras

pytestmark = pytest.mark.usefixtures("inference_mode")
SCALE = 1.8


def assert_guided(host: Any, settings: Sampling, model: Any, rl_model: Any, base: Any, separate: Any) -> None:
    """RLG of `rl_model` on `model` is the combination of `base` and `separate`, with weights of their own."""
    found = settings.run(host, guiding.guide(host, model, rl_model, SCALE))
    expected = settings.run(host, guiding.two_passes(host, base, separate, SCALE))
    effect = float((expected - settings.run(host, model)).pow(2).mean().sqrt())
    assert effect > 1e-3
    assert float((found - expected).abs().max()) < 3e-3 * effect


def loaded_adapter(host: Any, model: Any, folder: Path, name: str) -> Any:
    """A clone of `model` with the adapter `name` in `folder` on it, by the node."""
    use_loras(host, folder)
    inputs = {"strength": 1.0, "alpha": 0.0, "adapter": "", "text_encoder": "refuse"}
    return guiding.run_node(host, "RLGAdapterLoader", model=model, lora_name=name, **inputs)[0]


def test_preference(host, tmp_path):
    """SPO's adapter for SDXL: its trainer has diffusers write it, on all attention and without an alpha."""
    from diffusers import StableDiffusionXLPipeline

    models = SmallModels(host, "SDXL")
    network = models.model.model
    names = host.comfy.utils.unet_to_diffusers(network.model_config.unet_config)
    weights, layers, generator = dict(network.diffusion_model.state_dict()), {}, torch.Generator().manual_seed(3)
    for name, own in names.items():
        if name.endswith((".to_q.weight", ".to_k.weight", ".to_v.weight", ".to_out.0.weight")):
            up, down = (
                torch.randn(size, generator=generator) / 8
                for size in ((weights[own].shape[0], 4), (4, weights[own].shape[1]))
            )
            layers |= {name.replace("weight", "lora.up.weight"): up, name.replace("weight", "lora.down.weight"): down}
            weights[own] = weights[own] + up @ down
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers, weight_name="spo.safetensors")
    rl_model = loaded_adapter(host, models.model, tmp_path, "spo.safetensors")
    assert_guided(host, models.sampling(), models.model, rl_model, models.model, models.load(weights))


def test_composition_and_text(host, tmp_path):
    """Flow-GRPO's adapters for SD3.5 Medium: a PEFT folder, on the attention of both streams and on the second one."""
    medium = {"qk_norm": "rms_norm", "dual_attention_layers": (0,)}
    model = tiny.load(host, tiny.sd3_transformer(**medium))
    adapted = tiny.with_adapter(tiny.sd3_transformer(**medium), tiny.SD3_TARGETS, rank=4, alpha=8)
    adapted.save_pretrained(tmp_path / "SD3.5M-FlowGRPO-Text")
    separate = tiny.load(host, adapted.merge_and_unload())
    rl_model = loaded_adapter(host, model, tmp_path, "SD3.5M-FlowGRPO-Text")
    assert_guided(host, Sampling(steps=2), model, rl_model, model, separate)


@pytest.fixture
def small_unet(host) -> Any:
    """(model, RL model on the same weights, RL model with its own), of a UNet with so many input channels."""

    def make(channels: int = 4) -> tuple[Any, Any, Any]:
        weights = tiny.unet_weights(host, channels=channels)
        model, separate = (tiny.load_weights(host, weights) for _ in "ab")
        generator = torch.Generator().manual_seed(2)
        adapter = {}
        for key, weight in weights.items():
            if ".to_" in key and weight.ndim > 1:
                module = f"diffusion_model.{key.removesuffix('.weight')}"
                adapter[f"{module}.lora_down.weight"] = torch.randn(4, weight.shape[1], generator=generator) / 20
                adapter[f"{module}.lora_up.weight"] = torch.randn(weight.shape[0], 4, generator=generator) / 20
        return model, *(tiny.with_lora(host, loaded, adapter) for loaded in (model, separate))

    return make


def test_inpainting(host, small_unet):
    """A UNet made for it, which sees the mask and the masked picture beside the latent."""
    model, rl_model, separate = small_unet(channels=9)
    picture, mask = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7)), torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    settings = unet_sampling(steps=2, shape=(1, 4, 8, 8), latent=picture, mask=mask)
    for prompt in (settings.positive, settings.negative):
        prompt[0][1].update(concat_latent_image=picture, concat_mask=mask)
    assert_guided(host, settings, model, rl_model, model, separate)


class ImagePrompt:
    """A picture's tokens in a cross-attention of their own, added to the text's, as IP-Adapter does it."""

    def __init__(self, heads: int = 8, width: int = 320):
        generator = torch.Generator().manual_seed(8)
        self.heads = heads
        self.tokens = torch.randn(2, 4, 768, generator=generator)  # of the picture, and of none
        self.key, self.value = torch.randn(2, width, 768, generator=generator) / 768**0.5

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, extra_options: dict[str, Any]) -> Tensor:
        from comfy.ldm.modules.attention import optimized_attention

        prompts = extra_options["cond_or_uncond"]
        tokens = self.tokens[prompts].repeat_interleave(query.shape[0] // len(prompts), 0)
        picture = tokens @ self.key.T, tokens @ self.value.T
        text = optimized_attention(query, key, value, self.heads)
        return text + 0.8 * optimized_attention(query, *picture, self.heads)


@pytest.mark.parametrize("items", [1, 2])
def test_personalised_generation(host, small_unet, items):
    """A picture as a prompt: attention patches that tell positive from negative rows by the host's list of them."""
    model, rl_model, separate = small_unet()
    plain = unet_sampling(steps=2, shape=(items, 4, 8, 8))
    before = plain.run(host, model)
    model = model.clone()
    for place, number in (("input", 1), ("input", 3), ("middle", 0), ("output", 2)):
        model.set_model_attn2_replace(ImagePrompt(), place, number)
    assert float((plain.run(host, model) - before).abs().max()) > 1e-2, "the picture counts"
    assert_guided(host, plain, model, rl_model, model, separate)
