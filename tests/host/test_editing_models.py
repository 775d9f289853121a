"""Models that see more than noise and text, pictures to edit or to begin with among it: RLG is `base + w (rl - base)`.

Each is the host's own model at a small size, with random weights, an adapter on every layer and the conditioning that
its nodes make. Exactness is judged against two wholly separate models.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from support import guiding, tiny
from support.architectures import ARCHITECTURES, Tiny
from support.cells import EVERY, NOT_ON
from support.diffusers_models import diffusers_model
from support.host_models import host_network, without_storage
from support.sampling import Sampling, counted_calls
from support.tensors import cloned

TOKENS = 6


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Editing:
    """One model at work: its architecture, the geometry that is smaller than there, its latent and its conditioning.

    `text` is the width of the text. `conds` makes what the model's nodes add to a prompt. `mask` is the latent's.
    `two_passes` says why base and RL rows cannot run at once, where they cannot.
    """

    architecture: str
    latent: tuple[int, ...]
    text: int
    conds: Callable[[int], Mapping[str, Any]] = lambda seed: {}
    smaller: Mapping[str, Any] = field(default_factory=dict)
    mask: Tensor | None = None
    cfg: float = 3.0
    two_passes: str = ""


def referring(seed: int) -> Mapping[str, Any]:
    pictures = [noise(seed, 1, 16, 4, 4), noise(seed + 1, 1, 16, 4, 4)]
    return {"reference_latents": pictures, "attention_mask": torch.ones(1, TOKENS, dtype=torch.long)}


def beginning(channels: int, frames: int = 2) -> Callable[[int], Mapping[str, Any]]:
    """The first frame as an image concatenated to the latent, and where it is."""
    mask = torch.ones(1, 1, frames, 4, 4)
    mask[:, :, 0] = 0
    return lambda seed: {"concat_latent_image": noise(5, 1, channels, frames, 4, 4), "concat_mask": mask}


def pooled(width: int, conds: Callable[[int], Mapping[str, Any]] = lambda seed: {}) -> Callable:
    return lambda seed: {"pooled_output": noise(seed, 1, width), **conds(seed)}


MASKED = torch.tensor([[0, 0, 1, 1, 1, 1]])
HUNYUAN = {"hidden_size": 256, "num_heads": 2}
FIRST_FRAME = torch.tensor([0.0, 1.0])[None, None, :, None, None].expand(1, 1, 2, 4, 4)

EDITING = {
    "HunyuanVideo": Editing("HunyuanVideo", (1, 16, 2, 4, 4), 64, pooled(768), HUNYUAN),
    "HunyuanVideo I2V, first frame replaced": Editing(
        "HunyuanVideo",
        (1, 16, 2, 4, 4),
        64,
        pooled(768, lambda seed: {"guiding_frame_index": 0}),
        HUNYUAN,
        cfg=1.0,
        two_passes="ComfyUI adds the guidance of row j to the modulation of frame j",
    ),
    "HunyuanVideo I2V, first frame concatenated": Editing(
        "HunyuanVideo", (1, 16, 2, 4, 4), 64, pooled(768, beginning(16)), {**HUNYUAN, "in_channels": 33}
    ),
    "HunyuanVideo I2V, image tokens in the prompt": Editing(
        "HunyuanVideo",
        (1, 16, 2, 4, 4),
        64,
        pooled(768, lambda seed: {**beginning(16)(seed), "attention_mask": MASKED}),
        {**HUNYUAN, "in_channels": 33},
        cfg=1.0,  # ComfyUI takes one such prompt at a time
    ),
    "HunyuanVideo 1.5 I2V": Editing(
        "HunyuanVideo 1.5", (1, 32, 2, 4, 4), 3584, lambda seed: {"pooled_output": None, **beginning(32)(seed)}
    ),
    "OmniGen2": Editing(
        "OmniGen2",
        (1, 16, 4, 4),
        64,
        referring,
        {
            "hidden_size": 144,
            "num_attention_heads": 3,
            "num_kv_heads": 1,
            "axes_dim_rope": [16, 16, 16],
            "text_feat_dim": 64,
        },
    ),
    "LongCat-Image-Edit": Editing("LongCat-Image", (1, 16, 4, 4), 3584, referring),
    "HiDream-E1": Editing(
        "HiDream",
        (1, 16, 4, 4),
        64,
        lambda seed: {
            "pooled_output": noise(seed, 1, 2048),
            "conditioning_llama3": noise(seed, 1, 2, TOKENS, 64),
            "concat_latent_image": noise(5, 1, 16, 4, 4),
        },
        {"num_attention_heads": 2, "caption_channels": [64, 64]},
        two_passes="experts see the tokens that were sent to them, of whichever row",
    ),
    "LTX-Video I2V": Editing(
        "LTX-Video",
        (1, 128, 2, 4, 4),
        4096,
        lambda seed: {"attention_mask": torch.ones(1, TOKENS, dtype=torch.long)},
        mask=FIRST_FRAME,
        two_passes="with a time per token, the time embedder sees tokens instead of rows",
    ),
    "Cosmos-Predict2 I2V": Editing(
        "Cosmos-Predict2",
        (1, 16, 2, 4, 4),
        1024,
        beginning(16),
        {"in_channels": 17, "model_channels": 256, "num_heads": 2},
    ),
    "CogVideoX I2V": Editing("CogVideoX", (1, 16, 2, 4, 4), 64, beginning(16)),
    "Kandinsky 5 I2V": Editing(
        "Kandinsky 5",
        (1, 16, 2, 4, 4),
        3584,
        pooled(768, lambda seed: {"time_dim_replace": noise(5, 1, 16, 1, 4, 4)}),
    ),
}


def weights_of(tiny_model: Tiny, smaller: Mapping[str, Any]) -> dict[str, Tensor]:
    """Random weights that keep activations near 1, in the host's names."""
    network = diffusers_model(tiny_model) if tiny_model.host is None else host_network(tiny_model, smaller=smaller)
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5
        if weight.ndim > 1
        else 0.1 * torch.randn(weight.shape, generator=generator) + 0.5 * ("norm" in name)
        for name, weight in network.state_dict().items()
    }


NOT_LAYERS = (".gate.weight", "cond_type_embedding.weight")
"""Matrices that are not a linear layer's: no trainer puts a LoRA on them."""


def lora(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A LoRA on every layer, in the host's names."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, weight in weights.items():
        if weight.ndim > 1 and name.endswith(".weight") and not name.endswith(NOT_LAYERS):
            module = f"diffusion_model.{name.removesuffix('.weight')}"
            down = torch.randn(2, *weight.shape[1:], generator=generator) / weight[0].numel() ** 0.5
            up = 0.1 * torch.randn(weight.shape[0], 2, *[1] * (weight.ndim - 2), generator=generator)
            found |= {f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up}
    return found


@pytest.fixture(scope="module")
def loaded(host: SimpleNamespace) -> Callable[[str], tuple[Any, Any, Any]]:
    """Makes (model, RL model on the same weights, RL model with weights of its own) of one of `EDITING`."""

    @lru_cache(maxsize=1)
    def make(name: str) -> tuple[Any, Any, Any]:
        case = EDITING[name]
        tiny_model = ARCHITECTURES[case.architecture]
        weights = weights_of(tiny_model, case.smaller)
        model, other = (without_storage(cloned(weights), {**tiny_model.shrunk, **case.smaller}, "cpu") for _ in "ab")
        adapter = lora(weights)
        return model, tiny.with_lora(host, model, adapter), tiny.with_lora(host, other, adapter)

    return make


def settings(case: Editing) -> Sampling:
    positive, negative = ([[noise(seed, 1, TOKENS, case.text), dict(case.conds(seed))]] for seed in (11, 12))
    latent = noise(6, *case.latent) if case.mask is not None else None
    return Sampling(
        steps=2,
        cfg=case.cfg,
        shape=case.latent,
        positive=positive,
        negative=negative,
        latent=latent,
        mask=case.mask,
    )


@pytest.mark.parametrize("name", EDITING)
def test_exact_and_in_one_pass_where_it_can_be(host, loaded, name):
    case = EDITING[name]
    reason = NOT_ON.get((case.architecture, EVERY), {}).get(os.environ.get("RLG_HOST_VERSION"))
    if reason:
        pytest.skip(reason)
    model, rl_model, separate = loaded(name)
    run = settings(case)
    guided = guiding.guide(host, model, rl_model, 2.0)
    found = run.run(host, guided)
    with counted_calls(model) as rows:
        assert torch.equal(run.run(host, guided), found)
    base = run.run(host, model)
    expected = run.run(host, guiding.two_passes(host, model, separate, 2.0))
    effect = float((expected - base).pow(2).mean().sqrt())
    assert effect > 1e-3
    assert float((found - expected).abs().max()) < 3e-3 * effect
    prompts, steps = (1 if case.cfg == 1 else 2), 2
    assert rows == ([prompts] * 2 * steps if case.two_passes else [2 * prompts] * steps)
