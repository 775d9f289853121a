"""DiffusionNFT (arXiv 2509.16117): online RL on the forward process, for rewards that policy gradients hardly move.

Pictures are drawn with the ordinary sampler, no stochastic one. Each gets an optimality r in [0, 1] from its reward
within its group; then the model is regressed on its own pictures, noised anew: towards those of high r, and with an
implicit negative model away from those of low r (eq. 6, 9). A KL term keeps it near the base.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from . import base, codec, model, rewards
from .flow_grpo import advantages, draw_prompts, group_spread, starting_noise
from .scenes import USED_CHANNELS


@dataclass(frozen=True)
class Settings:
    """What a run is made with; everything is recorded in its log."""

    reward: str
    beta: float
    seed: int = 0
    iterations: int = 40
    prompts: int = 8
    group: int = 16
    steps: int = 10
    updates: int = 4
    learning_rate: float = 5e-4
    strength: float = 1.0


def nft_loss(
    v: torch.Tensor, old: torch.Tensor, target: torch.Tensor, optimality: torch.Tensor, strength: float
) -> torch.Tensor:
    """Eq. 9: r |v+ - target|^2 + (1 - r) |v- - target|^2.

    Here v+ = old + strength (v - old) and v- = old - strength (v - old). The loss is over the channels that scenes use:
    the others keep their noise.
    """
    change = strength * (v - old)
    positive, negative = (
        (old + sign * change - target)[:, :USED_CHANNELS].square().mean((1, 2, 3)) for sign in (1, -1)
    )
    return (optimality * positive + (1 - optimality) * negative).mean()


def train(policy, reference: Callable, parameters: list, settings: Settings) -> Iterator[dict]:
    """Run DiffusionNFT on `parameters` of `policy`; yields a log row after each iteration.

    `reference(x, sigma, conditioning)` is the base model's velocity. `kl` in the log is the mean squared difference of
    velocities, the KL term before beta.
    """
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    captions = base.Captions()
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0, betas=(0.9, 0.95))
    scale, start = None, time.time()
    for iteration in range(settings.iterations):
        prompts, conditioning = draw_prompts(captions, settings, generator)
        predict = partial(model.velocity, policy, conditioning=conditioning)
        data = model.sample(predict, starting_noise(settings, generator), settings.steps)
        pictures = codec.decode(data)
        scores, correct = rewards.REWARDS[settings.reward](pictures, prompts), rewards.correctness(pictures, prompts)
        scale = scale or group_spread(scores, settings.group)
        optimality = 0.5 + 0.5 * advantages(scores, settings.group, 2 * scale).clamp(-1, 1)
        noised = [noise_again(policy, data, conditioning, generator) for _ in range(settings.updates)]
        kl = sum(
            update(policy, reference, parameters, optimiser, n, conditioning, optimality, settings) for n in noised
        )
        yield {
            "iteration": iteration,
            "reward": round(float(scores.mean()), 4),
            "correct": round(float(correct.mean()), 3),
            "kl": round(kl / settings.updates, 5),
            "reward_scale": round(scale, 4),
            "seconds": round(time.time() - start, 1),
        }


@torch.no_grad()
def noise_again(policy, data: torch.Tensor, conditioning, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """State, sigma, target velocity and the sampling policy's own velocity at a random time for each picture."""
    noise = torch.randn(data.shape, generator=generator)
    sigma = model.shifted(torch.rand(len(data), generator=generator))
    level = sigma[:, None, None, None]
    x = (1 - level) * data + level * noise
    return x, sigma, noise - data, model.velocity(policy, x, sigma, conditioning)


def update(policy, reference, parameters, optimiser, noised, conditioning, optimality, settings: Settings) -> float:
    """One optimiser step; returns the KL term before beta."""
    x, sigma, target, old = noised
    with torch.no_grad():
        anchor = reference(x, sigma, conditioning)
    v = model.velocity(policy, x, sigma, conditioning)
    kl = (v - anchor).square().mean()
    optimiser.zero_grad()
    (nft_loss(v, old, target, optimality, settings.strength) + settings.beta * kl).backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    return kl.item()
