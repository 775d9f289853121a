"""How far guided sampling leaves the base, as the KL divergence of their stochastic paths."""

from __future__ import annotations

import math

from torch import Tensor

NOISE_LEVEL = 0.7
"""`a` of Flow-GRPO's SDE (arXiv 2505.05470: sigma_t = a sqrt(t / (1 - t))), as its experiments set it."""


def flow_step_kl(difference: Tensor, t: float, t_next: float, noise_level: float = NOISE_LEVEL) -> Tensor:
    """KL of one SDE step of a flow model from `t` to `t_next` < t, [rows], for a velocity difference [rows, ...].

    `dt / 2 (sigma_t (1 - t) / (2 t) + 1 / sigma_t)^2 |v - v_base|^2` (the closed form of arXiv 2505.05470). At t = 1, where sigma_t is
    infinite, the step's end stands in, as in Flow-GRPO's code (its middle, where the step ends at 0).
    """
    at = t if t < 1.0 else t_next or t / 2
    sigma = noise_level * math.sqrt(at / max(1.0 - at, 1e-6))
    factor = sigma * (1.0 - at) / (2.0 * at) + 1.0 / sigma
    return 0.5 * (t - t_next) * factor**2 * _squared_norm(difference)


def noise_step_kl(difference: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """KL of one step of the reverse variance-exploding SDE, [rows], for a noise difference [rows, ...].

    Girsanov for `g^2 = d sigma^2 / dt` and scores `-eps / sigma`: `1/2 (sigma^2 - sigma_next^2) / sigma^2 |eps - eps_base|^2`.
    """
    return 0.5 * (sigma**2 - sigma_next**2) / sigma**2 * _squared_norm(difference)


def _squared_norm(difference: Tensor) -> Tensor:
    return difference.flatten(1).square().sum(1)
