"""How a soak's graphs are put together."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

Graph = dict[str, dict[str, Any]]
ADAPTERS = tuple(f"rlg-demo/rl-{name}" for name in ("brightness", "jpeg", "composition", "brightness-beta0.1"))
SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, -1.0)


@dataclass
class Builder:
    """A graph under construction; every method adds a node and returns its first output."""

    draw: random.Random
    graph: Graph = field(default_factory=dict)

    def node(self, kind: str, **inputs: Any) -> list:
        name = str(len(self.graph) + 1)
        self.graph[name] = {"class_type": kind, "inputs": inputs}
        return [name, 0]

    def model(self) -> list:
        return self.node("UNETLoader", unet_name="rlg-demo-base.safetensors", weight_dtype="default")

    def adapter(self, model: list, name: str = "") -> list:
        return self.node(
            "RLGAdapterLoader",
            model=model,
            lora_name=name or self.draw.choice(ADAPTERS),
            strength=self.draw.choice((0.5, 1.0, 1.0, 1.25)),
            alpha=0.0,
            adapter="",
        )

    def guided(self, model: list, rl_model: list, **inputs: Any) -> list:
        settings = {"scale": self.draw.choice(SCALES), "start_percent": 0.0, "end_percent": 1.0}
        settings |= {"outside_scale": 1.0, "rescale": 0.0}
        return self.node("RLGApply", model=model, rl_model=rl_model, **settings | inputs)

    def budgeted(self, model: list, **inputs: Any) -> list:
        settings = {"evaluate": "exact", "refresh_every": 1, "tolerance": 0.0, "batching": "auto"}
        return self.node("RLGBudget", model=model, **settings | inputs)

    def prompts(self) -> tuple[list, list]:
        clip = self.node("CLIPLoader", clip_name="rlg-demo-clip.pt", type="sd3", device="default")
        text = self.draw.choice(("three red circles", "two blue squares"))
        return self.node("CLIPTextEncode", text=text, clip=clip), self.node("CLIPTextEncode", text="", clip=clip)

    def latent(self, batch: int = 0) -> list:
        width, height = self.draw.choice(((64, 64), (96, 64), (96, 96)))
        return self.node(
            "EmptySD3LatentImage", width=width, height=height, batch_size=batch or self.draw.choice((1, 1, 2))
        )

    def sampled(self, model: list, latent: list | None = None, **inputs: Any) -> list:
        positive, negative = self.prompts()
        settings = {"seed": 1, "steps": 2, "cfg": 3.0, "denoise": 1.0, "scheduler": "simple"}
        settings |= {"sampler_name": self.draw.choice(("euler", "heun"))}
        return self.node(
            "KSampler",
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent or self.latent(),
            **settings | inputs,
        )

    def picture(self, latent: list) -> list:
        vae = self.node("VAELoader", vae_name="rlg-demo-vae.safetensors")
        return self.node("VAEDecode", samples=latent, vae=vae)

    def probe(self, latent: list) -> Graph:
        self.node("SoakProbe", latent=latent)
        return self.graph
