"""Inpainting and personalised generation, cases of the paper (arXiv 2508.21016), against two separate models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from support import guiding, tiny
from support.sampling import Sampling, unet_sampling

pytestmark = pytest.mark.usefixtures("inference_mode")
SCALE = 1.8


def assert_guided(host: Any, settings: Sampling, model: Any, rl_model: Any, base: Any, separate: Any) -> None:
    """RLG of `rl_model` on `model` is the combination of `base` and `separate`, with weights of their own."""
    found = settings.run(host, guiding.guide(host, model, rl_model, SCALE))
    expected = settings.run(host, guiding.two_passes(host, base, separate, SCALE))
    effect = float((expected - settings.run(host, model)).pow(2).mean().sqrt())
    assert effect > 1e-3
    assert float((found - expected).abs().max()) < 3e-3 * effect


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
    settings = unet_sampling(steps=2, latent=picture, mask=mask)
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
