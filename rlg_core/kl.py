"""How far guided sampling departs from the base: the KL divergence between their stochastic sampling paths."""

from __future__ import annotations

import math

from torch import Tensor

NOISE_LEVEL = 0.7
"""`a` in Flow-GRPO's SDE (arXiv 2505.05470: sigma_t = a sqrt(t / (1 - t))), at the value of its experiments."""


def flow_step_kl(difference: Tensor, t: float, t_next: float, noise_level: float = NOISE_LEVEL) -> Tensor:
    """KL divergence [rows], in nats, of one SDE step of a flow model from `t` to `t_next` < t.

    `difference` [rows, ...] is that of the velocities. The closed form of arXiv 2505.05470:
    `dt / 2 (sigma_t (1 - t) / (2 t) + 1 / sigma_t)^2 |v - v_base|^2`. At t = 1, where sigma_t is infinite, it is taken
    at the end of the step, as in Flow-GRPO's code, or at its middle if the step ends at 0.
    """
    at = t if t < 1.0 else t_next or t / 2
    sigma = noise_level * math.sqrt(at / max(1.0 - at, 1e-6))
    factor = sigma * (1.0 - at) / (2.0 * at) + 1.0 / sigma
    return 0.5 * (t - t_next) * factor**2 * _squared_norm(difference)


def noise_step_kl(difference: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """KL divergence [rows], in nats, of one step of the reverse variance-exploding SDE.

    `difference` [rows, ...] is that of the noise predictions. Girsanov's theorem for `g^2 = d sigma^2 / dt` and scores
    `-eps / sigma` gives `1/2 (sigma^2 - sigma_next^2) / sigma^2 |eps - eps_base|^2`.
    """
    return 0.5 * (sigma**2 - sigma_next**2) / sigma**2 * _squared_norm(difference)


def _squared_norm(difference: Tensor) -> Tensor:
    return difference.flatten(1).square().sum(1)
