"""The geometric mean of a base model and its RL-tuned versions, on predictions (arXiv 2508.21016)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

Weight = float | Tensor
"""w_k: one number, or a tensor that broadcasts over the prediction (per row, per region)."""

NEGLIGIBLE = 1e-6
"""Sums of float32 scales that should cancel leave less than this."""


def is_zero(weight: Weight) -> bool:
    """Whether no element of `weight` differs from 0 by more than rounding."""
    if isinstance(weight, Tensor):
        return not bool((weight.abs() > NEGLIGIBLE).any())
    return abs(weight) <= NEGLIGIBLE


def base_weight(weights: Sequence[Weight]) -> Weight:
    """`1 - sum_k w_k`, what is left for the base prediction."""
    return 1.0 - sum(weights)


def geometric_mean(base: Tensor | None, experts: Sequence[tuple[Weight, Tensor]]) -> Tensor:
    """`base + sum_k w_k (rl_k - base)`: the prediction of `p_base^(1 - sum w_k) prod_k p_k^w_k`.

    Affine, hence the same in score, noise, velocity and denoised space. All predictions have one shape; `base` may be
    None where the weights sum to 1, and a single expert at weight 1 comes back untouched.
    """
    if base is None:
        if len(experts) == 1:
            return experts[0][1]
        return sum(weight * prediction for weight, prediction in experts)
    mean = base.clone()
    for weight, prediction in experts:
        mean += weight * (prediction - base)
    return mean


def blended(scale: Weight, outside_scale: float, mask: Tensor | None) -> Weight:
    """`w = o + m (s - o)`: the scale where the mask is 1, the outside scale where it is 0, soft edges between."""
    return scale if mask is None else outside_scale + mask * (scale - outside_scale)


def rescale(prediction: Tensor, reference: Tensor, strength: float) -> Tensor:
    """`prediction` with its standard deviation per sample moved towards that of `reference` by `strength` in [0, 1]
    (Lin et al. 2305.08891, section 3.4). Shapes [rows, ...], alike."""
    dims = tuple(range(1, prediction.ndim))
    ratio = reference.std(dim=dims, keepdim=True) / prediction.std(dim=dims, keepdim=True)
    return prediction * (strength * ratio + (1.0 - strength))
