"""The demo's base and its RL models on the host, sampled over prompts at once and scored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from demo import scenes
from demo.evidence.pair import SEED, Pair
from demo.evidence.scores import CORRECT, score
from demo.evidence.statistics import Estimate, estimate, paired
from demo.evidence.ways import Expert, find_experts
from rlg_core.pictures import diversity
from rlg_core.rewards.scenes import Prompt, all_prompts

from . import host

EXACT = {"evaluate": "exact", "refresh_every": 1, "tolerance": 0.0, "batching": "auto"}


class Demo:
    """`prompts` of the demo's 54, evenly chosen; every way of sampling starts from the same noise."""

    def __init__(self, prompts: int):
        chosen = all_prompts()[:: max(1, 54 // prompts)][:prompts]
        self.experts = {expert.name: expert for expert in find_experts() if expert.is_main or expert.is_checkpoint}
        self.pair = Pair(host.start(), list(self.experts.values()), chosen, steps=20)

    @property
    def prompts(self) -> list[Prompt]:
        return self.pair.prompts

    @property
    def base(self) -> Any:
        return self.pair.base

    def adapters(self) -> list[Expert]:
        return [expert for expert in self.experts.values() if not expert.is_checkpoint]

    def guided(
        self, scales: dict[str, float], budget: dict[str, Any] | None = None, rl_model: Any = None, **inputs: Any
    ) -> Any:
        """The base with RLG towards each expert; `budget` and `inputs` are those of RLGBudget and RLGApply.

        `rl_model` takes the place of the expert's own model.
        """
        model = self.base
        values = {"start_percent": 0.0, "end_percent": 1.0, "outside_scale": 1.0, "rescale": 0.0, **inputs}
        for name, scale in scales.items():
            model = self.pair.node("RLGApply", model, rl_model or self.rl(name), scale=scale, **values)
        return model if budget is None else self.pair.node("RLGBudget", model, **{**EXACT, **budget})

    def rl(self, name: str) -> Any:
        return self.pair.rl_model(name)

    def latents(self, model: Any, cfg: float, steps: int, seeds: Iterable[int], sampler: str = "euler") -> Tensor:
        """(seeds, prompts, 16, 12, 12)."""
        positive = self.pair.together()
        latent = {"samples": torch.zeros(len(self.prompts), scenes.CHANNELS, scenes.GRID, scenes.GRID)}
        sample = self.pair.host.nodes.common_ksampler
        with torch.inference_mode():
            return torch.stack(
                [
                    sample(model, SEED + seed, steps, cfg, sampler, "simple", positive, self.pair.empty, latent)[0][
                        "samples"
                    ]
                    for seed in seeds
                ]
            )

    def scored(self, latents: Tensor) -> Scores:
        """Rewards, right scenes and diversity of what `latents` returned."""
        batches = [self.pair.decoded(batch) for batch in latents]
        parts = [score(pictures, self.prompts) for pictures in batches]
        last = torch.stack(batches).movedim(2, -1)
        spread = [diversity(last[:, k]) for k in range(len(self.prompts))] if len(batches) > 1 else []
        return Scores({name: [v for part in parts for v in part[name]] for name in parts[0]}, spread, len(self.prompts))


class Scores:
    """A number per picture under each reward's name and `correct`, and the diversity of each prompt's pictures.

    Intervals are for other prompts: each prompt counts once.
    """

    def __init__(self, values: dict[str, list[float]], spread: list[float], prompts: int):
        self.values, self.spread, self.prompts = values, spread, prompts

    def told(self, name: str) -> str:
        return _told(estimate(self.values[name], self.prompts), 100 if name == CORRECT else 1)

    def told_spread(self) -> str:
        return _told(estimate(self.spread))

    def over(self, other: Scores, name: str) -> Estimate:
        """By how much it is above `other`, picture by picture."""
        return paired(self.values[name], other.values[name], self.prompts)


def _told(value: Estimate, times: float = 1) -> str:
    digits = 1 if times > 1 else 3
    return f"{times * value.mean:.{digits}f} +- {times * value.half:.{digits}f}"


def errors(latents: Tensor, exact: Tensor) -> Tensor:
    """The relative error of each picture's latent."""
    return (latents - exact).flatten(2).norm(dim=2).flatten() / exact.flatten(2).norm(dim=2).flatten()


def percent(values: Tensor) -> str:
    """Median, 90th percentile and worst."""
    return ", ".join(f"{100 * float(values.quantile(q)):.2g} %" for q in (0.5, 0.9, 1.0))
