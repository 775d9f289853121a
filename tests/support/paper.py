"""The paper's own way (arXiv 2508.21016 and its code): diffusers and PEFT, one pass per model, adapters switched."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor


class Predictions:
    """Velocities at one step, by model ("base" or an adapter's name): of each prompt, and CFG'd at a scale."""

    def __init__(self, adapted: Any, settings: Any, x: Tensor, sigma: Tensor):
        self.adapted, self.settings, self.x, self.sigma = adapted, settings, x, sigma
        self.known: dict[str, tuple[Tensor, Tensor]] = {}

    def pair(self, model: str) -> tuple[Tensor, Tensor]:
        if model not in self.known:
            self.known[model] = self._evaluate(model)
        return self.known[model]

    def guided(self, model: str, cfg: float) -> Tensor:
        conditional, unconditional = self.pair(model)
        return unconditional + cfg * (conditional - unconditional)

    def _evaluate(self, model: str) -> tuple[Tensor, Tensor]:
        (positive, extra), (negative, extra_negative) = self.settings.positive[0], self.settings.negative[0]
        batch = self.x.shape[0]
        if model != "base":
            self.adapted.set_adapter(model)
        with self.adapted.disable_adapter() if model == "base" else nullcontext():
            velocity = self.adapted(
                hidden_states=self.x.repeat(2, 1, 1, 1),
                timestep=(self.sigma * 1000).repeat(2 * batch),
                encoder_hidden_states=torch.cat([positive.repeat(batch, 1, 1), negative.repeat(batch, 1, 1)]),
                pooled_projections=torch.cat([e["pooled_output"].repeat(batch, 1) for e in (extra, extra_negative)]),
                return_dict=False,
            )[0]
        return velocity.chunk(2)


@torch.no_grad()
def sample(adapted: Any, settings: Any, sigmas: Tensor, combine: Callable[[int, Predictions], Tensor]) -> Tensor:
    """The final latent, in the model's own space, of Euler steps on `combine(step, predictions)`'s velocities."""
    x = settings.noise() * sigmas[0]
    for step, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        x = x + (following - sigma) * combine(step, Predictions(adapted, settings, x, sigma))
    return x


def guidance(scale: float, cfg: float) -> Callable[[int, Predictions], Tensor]:
    """The paper's combination: both models CFG'd at one scale, then `base + scale * (rl - base)`."""

    def combine(step: int, of: Predictions) -> Tensor:
        base, rl = of.guided("base", cfg), of.guided("default", cfg)
        return base + scale * (rl - base)

    return combine
