"""The demo pair on the real host: loaders, RLG nodes and sampler of a graph, called in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from demo import codec, scenes
from rlg_core.rewards.scenes import Prompt

from .ways import ADAPTERS, MODELS, Expert, Way

BASE, VAE, CLIP = "rlg-demo-base.safetensors", "rlg-demo-vae.safetensors", "rlg-demo-clip.pt"
FOLDERS = ("diffusion_models", "loras", "text_encoders", "vae")
SAMPLER, SCHEDULER = "euler", "simple"
SEED = 1000
"""Noise of picture k of every prompt comes from seed SEED + k, whatever the way of sampling."""


class Pair:
    """Samples scenes by any `Way` for `prompts`, from the same noise for every way."""

    def __init__(
        self,
        host: SimpleNamespace,
        experts: Sequence[Expert],
        prompts: Sequence[Prompt],
        steps: int,
        models: Path = MODELS,
    ):
        host.comfy.utils.set_progress_bar_enabled(False)
        for folder in FOLDERS:
            host.folder_paths.add_model_folder_path(folder, str(models / folder), is_default=True)
        self.host, self.prompts, self.steps = host, list(prompts), steps
        self.experts = {expert.name: expert for expert in experts}
        self.base = host.nodes.UNETLoader().load_unet(BASE, "default")[0]
        self.vae = host.nodes.VAELoader().load_vae(VAE)[0]
        clip = host.nodes.CLIPLoader().load_clip(CLIP, "sd3")[0]
        encoded = [host.nodes.CLIPTextEncode().encode(clip, str(prompt))[0] for prompt in [*self.prompts, ""]]
        self.each, self.empty = encoded[:-1], encoded[-1]
        self.rl_model = cache(self._rl_model)

    def node(self, name: str, *inputs: Any, **more: Any) -> Any:
        """The first output of one of the pack's nodes."""
        return self.host.classes[name].execute(*inputs, **more).result[0]

    def _rl_model(self, name: str) -> Any:
        expert = self.experts[name]
        if expert.is_checkpoint:
            return self.host.nodes.UNETLoader().load_unet(expert.path.name, "default")[0]
        return self.node("RLGAdapterLoader", self.base, f"{ADAPTERS}/{expert.path.name}", 1.0, 0.0, "")

    def model(self, way: Way) -> Any:
        """The MODEL of the graph that `way` stands for."""
        model = self.base
        for name, dial in way.experts:
            schedule = self.node("RLGSchedule", *astuple(dial))
            model = self.node("RLGApply", model, self.rl_model(name), 1.0, 0.0, 1.0, 1.0, 0.0, schedule=schedule)
        return self.node("RLGBudget", model, "linearised", 1, 0.0, "auto") if way.linearised else model

    def latents(self, way: Way, seed: int, prompts: slice = slice(None)) -> Tensor:
        """What the sampler returns for one picture of every prompt, (P, 16, 12, 12)."""
        positive = self.together(prompts)
        latent = {"samples": torch.zeros(len(positive[0][0]), scenes.CHANNELS, scenes.GRID, scenes.GRID)}
        with torch.inference_mode():
            return self.host.nodes.common_ksampler(
                self.model(way), seed, self.steps, way.cfg, SAMPLER, SCHEDULER, positive, self.empty, latent
            )[0]["samples"]

    def together(self, prompts: slice = slice(None)) -> list:
        """One conditioning for a batch, an item a prompt."""
        each = self.each[prompts]
        pooled = torch.cat([conditioning[0][1]["pooled_output"] for conditioning in each])
        return [[torch.cat([conditioning[0][0] for conditioning in each]), {"pooled_output": pooled}]]

    def decoded(self, latents: Tensor) -> Tensor:
        """Pictures (P, 3, 96, 96) in [0, 1], by the formula that the VAE's weights compute a hundred times slower."""
        return codec.decode(self.base.model.process_latent_in(latents.float()))

    def pictures(self, way: Way, seeds: int) -> Iterator[Tensor]:
        """One batch of a picture a prompt for each seed."""
        for k in range(seeds):
            yield self.decoded(self.latents(way, SEED + k))

    def codec_error(self) -> float:
        """The largest difference of a pixel between that formula and the VAE as the host runs it."""
        latents = self.latents(Way(), SEED, slice(4))
        with torch.inference_mode():
            stock = self.vae.decode(latents).movedim(-1, 1)
        return float((stock - self.decoded(latents)).abs().max())
