"""Flow-GRPO (arXiv 2505.05470): online policy-gradient RL for flow models.

The deterministic sampler becomes a stochastic one with the same marginals (eq. 9), whose steps are Gaussians with
known densities; rewards are compared within groups of one prompt (eq. 4); the policy maximises the clipped ratio times
that advantage minus beta times the KL divergence to the base model (eq. 5, 11).

A few choices differ from the paper's code. Advantages are divided by one constant, the base model's mean standard
deviation within groups, instead of each group's own: beta then has one meaning for a whole run, the KL coefficient in
units of that reward scale. The last two of ten steps are deterministic (noise added there stays in the picture), and
of the others some, drawn anew each iteration, are trained on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from rlg_core.rewards.scenes import Prompt

from . import base, codec, model, rewards, scenes

NOISE_LEVEL = 0.7  # "a" of eq. 9


@dataclass(frozen=True)
class Settings:
    """What a run is made with; everything is recorded in its log."""

    reward: str
    beta: float
    seed: int = 0
    iterations: int = 25
    prompts: int = 8
    group: int = 16
    steps: int = 10
    settled: int = 2
    trained_steps: int = 5
    updates: int = 5
    learning_rate: float = 5e-4
    clip: float = 1e-3


@dataclass(frozen=True)
class Rollout:
    """Sampled trajectories: states (steps + 1, B, 16, h, w), mean log-densities (stochastic steps, B), rewards (B,)."""

    states: torch.Tensor
    log_probs: torch.Tensor
    conditioning: model.Conditioning
    prompts: list[Prompt]
    scores: torch.Tensor
    correct: float


def sde_step(x: torch.Tensor, v: torch.Tensor, sigma: torch.Tensor, next_sigma: torch.Tensor, first: torch.Tensor):
    """Mean and standard deviation of one stochastic step (eq. 9), sigma_t = a sqrt(t / (1 - t)).

    At t = 1 the paper's code puts the next level, `first`, into the root's denominator.
    """
    std = NOISE_LEVEL * (sigma / (1 - torch.where(sigma == 1, first, sigma))).sqrt()
    dt = next_sigma - sigma
    mean = x * (1 + std**2 / (2 * sigma) * dt) + v * (1 + std**2 * (1 - sigma) / (2 * sigma)) * dt
    return mean, std * (-dt).sqrt()


def log_density(x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Mean over dimensions of the Gaussian's log-density, up to a constant; (B,)."""
    return -((x - mean) ** 2).mean((1, 2, 3)) / (2 * std**2)


@torch.no_grad()
def rollout(policy, captions: base.Captions, settings: Settings, generator: torch.Generator) -> Rollout:
    """Sample a group of pictures for each of a few random prompts and score them."""
    prompts, conditioning = draw_prompts(captions, settings, generator)
    levels = model.sigmas(settings.steps)
    states = [starting_noise(settings, generator)]
    log_probs = []
    for step, (sigma, next_sigma) in enumerate(zip(levels, levels[1:])):
        v = model.velocity(policy, states[-1], sigma, conditioning)
        if step >= settings.steps - settings.settled:
            states.append(states[-1] + (next_sigma - sigma) * v)
            continue
        mean, std = sde_step(states[-1], v, sigma, next_sigma, levels[1])
        states.append(mean + std * torch.randn(mean.shape, generator=generator))
        log_probs.append(log_density(states[-1], mean, std))
    pictures = codec.decode(states[-1])
    scores, correct = rewards.REWARDS[settings.reward](pictures, prompts), rewards.correctness(pictures, prompts)
    return Rollout(torch.stack(states), torch.stack(log_probs), conditioning, prompts, scores, float(correct.mean()))


def draw_prompts(captions: base.Captions, settings: Settings, generator: torch.Generator):
    """A few random prompts, each repeated for its group, and their conditioning."""
    pick = torch.randperm(captions.open_rows, generator=generator)[: settings.prompts].repeat_interleave(settings.group)
    return [captions.prompts[i] for i in pick], captions.rows(1 + pick)


def starting_noise(settings: Settings, generator: torch.Generator) -> torch.Tensor:
    """Noise (B, 16, h, w), its own for each picture."""
    return torch.randn(
        settings.prompts * settings.group, scenes.CHANNELS, scenes.GRID, scenes.GRID, generator=generator
    )


def group_spread(scores: torch.Tensor, group: int) -> float:
    """Mean standard deviation of the scores within groups."""
    return float(scores.view(-1, group).std(1).mean())


def advantages(scores: torch.Tensor, group: int, scale: float) -> torch.Tensor:
    """Scores relative to their group's mean, in units of `scale` (eq. 4), limited to +-5."""
    grouped = scores.view(-1, group)
    return ((grouped - grouped.mean(1, keepdim=True)) / scale).clamp(-5, 5).flatten()


def step_loss(policy, reference: Callable, batch: Rollout, step: int, advantage: torch.Tensor, settings: Settings):
    """Clipped surrogate (eq. 5) and KL to the reference (eq. 11) of one step; two scalars, means per dimension."""
    levels = model.sigmas(settings.steps)
    x, sigma, next_sigma = batch.states[step], levels[step], levels[step + 1]
    with torch.no_grad():
        reference_mean, _ = sde_step(x, reference(x, sigma, batch.conditioning), sigma, next_sigma, levels[1])
    v = model.velocity(policy, x, sigma, batch.conditioning)
    mean, std = sde_step(x, v, sigma, next_sigma, levels[1])
    ratio = (log_density(batch.states[step + 1], mean, std) - batch.log_probs[step]).exp()
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    surrogate = torch.minimum(ratio * advantage, clipped * advantage).mean()
    kl = (((mean - reference_mean) ** 2).mean((1, 2, 3)) / (2 * std**2)).mean()
    return -surrogate, kl


def train(policy, reference: Callable, parameters: list, settings: Settings) -> Iterator[dict]:
    """Run Flow-GRPO on `parameters` of `policy`; yields a log row after each iteration.

    `reference(x, sigma, conditioning)` is the base model's velocity. KL in the log is the whole path's, in nats.
    """
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    captions = base.Captions()
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0, betas=(0.9, 0.99))
    scale, start = None, time.time()
    for iteration in range(settings.iterations):
        batch = rollout(policy, captions, settings, generator)
        scale = scale or group_spread(batch.scores, settings.group)
        advantage = advantages(batch.scores, settings.group, scale)
        stochastic = settings.steps - settings.settled
        chosen = torch.randperm(stochastic, generator=generator)[: settings.trained_steps]
        kl = 0.0
        for part in chosen.tensor_split(settings.updates):
            kl += update(policy, reference, parameters, optimiser, batch, part.tolist(), advantage, settings)
        yield {
            "iteration": iteration,
            "reward": round(float(batch.scores.mean()), 4),
            "correct": round(batch.correct, 3),
            "path_kl": round(kl / settings.trained_steps * stochastic * batch.states[0, 0].numel(), 2),
            "reward_scale": round(scale, 4),
            "seconds": round(time.time() - start, 1),
        }


def update(policy, reference, parameters, optimiser, batch, steps: list[int], advantage, settings: Settings) -> float:
    """One optimiser step on the transitions `steps`; returns the sum of their KLs."""
    optimiser.zero_grad()
    total = 0.0
    for step in steps:
        loss, kl = step_loss(policy, reference, batch, step, advantage, settings)
        ((loss + settings.beta * kl) / len(steps)).backward()
        total += kl.item()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    return total
