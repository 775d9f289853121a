"""Measure a model of the demo: share of fully correct scenes and mean rewards, without a host."""

from __future__ import annotations

import torch

from rlg_core.rewards.scenes import Prompt, all_prompts

from . import base, codec, model, rewards, scenes


@torch.no_grad()
def pictures(predict, prompts: list[Prompt], seed: int, steps: int = 20) -> torch.Tensor:
    """Pictures (B, 3, 96, 96) in [0, 1] for `prompts`; `predict(x, sigma, positive, negative)` is a velocity."""
    captions = base.Captions()
    positive, negative = captions.of(prompts), captions.of([None] * len(prompts))
    noise = torch.randn(
        len(prompts), scenes.CHANNELS, scenes.GRID, scenes.GRID, generator=torch.Generator().manual_seed(seed)
    )
    return codec.decode(model.sample(lambda x, sigma: predict(x, sigma, positive, negative), noise, steps))


def single(net, cfg: float):
    """`predict` of one model."""
    return lambda x, sigma, positive, negative: model.guided_velocity(net, x, sigma, positive, negative, cfg)


def rlg(base_net, rl_net, scale: float, cfg: float):
    """`predict` of RLG: base + scale * (rl - base), arXiv 2508.21016."""

    def predict(x, sigma, positive, negative):
        first, second = (model.guided_velocity(net, x, sigma, positive, negative, cfg) for net in (base_net, rl_net))
        return first + scale * (second - first)

    return predict


def sweep(base_net, rl_net, scales: tuple[float, ...], cfg: float, count: int, seed: int = 2) -> list[dict]:
    """Rewards and correctness at each RLG scale over `count` prompts, with common noise."""
    prompts = (all_prompts() * (count // 54 + 1))[:count]
    rows = [scores(pictures(rlg(base_net, rl_net, w, cfg), prompts, seed), prompts) for w in scales]
    return [{"scale": w} | {k: round(v, 4) for k, v in row.items()} for w, row in zip(scales, rows)]


def validity(net, count: int, cfgs: tuple[float, ...], seed: int = 1) -> dict[str, float]:
    """Share of fully correct scenes over `count` prompts (54 are all), for each CFG scale."""
    prompts = (all_prompts() * (count // 54 + 1))[:count]
    return {
        f"correct_cfg{cfg:g}": round(scores(pictures(single(net, cfg), prompts, seed), prompts)["correct"], 3)
        for cfg in cfgs
    }


def scores(images: torch.Tensor, prompts: list[Prompt]) -> dict[str, float]:
    """Mean of every reward and the share of fully correct scenes."""
    means = {name: float(reward(images, prompts).mean()) for name, reward in rewards.REWARDS.items()}
    return means | {"correct": float(rewards.correctness(images, prompts).mean())}
