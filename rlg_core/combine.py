"""The geometric mean of a base model and its RL-tuned versions, on predictions (arXiv 2508.21016)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

Weight = float | Tensor
"""w_k: one number, or a tensor that broadcasts over the prediction (per row, per region)."""

NEGLIGIBLE = 1e-6
"""Float32 scales that should cancel sum to less than this."""


def is_zero(weight: Weight) -> bool:
    """Whether every element of `weight` is 0 up to rounding."""
    if isinstance(weight, Tensor):
        return not bool((weight.abs() > NEGLIGIBLE).any())
    return abs(weight) <= NEGLIGIBLE


def base_weight(weights: Sequence[Weight]) -> Weight:
    """`1 - sum_k w_k`: the weight left for the base prediction."""
    return 1.0 - sum(weights)


def geometric_mean(base: Tensor | None, experts: Sequence[tuple[Weight, Tensor]]) -> Tensor:
    """`base + sum_k w_k (rl_k - base)`: the prediction of `p_base^(1 - sum w_k) prod_k p_k^w_k`.

    The combination is affine, so it is the same in score, noise, velocity and denoised space. All predictions have the
    same shape. `base` may be None if the weights sum to 1; a single expert is then returned unchanged.
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
    """`w = o + m (s - o)`: the scale where the mask is 1, the outside scale where it is 0, a blend in between."""
    return scale if mask is None else outside_scale + mask * (scale - outside_scale)


def capped(weight: Weight, difference: Tensor, reference: Tensor, max_ratio: float) -> Weight:
    """`weight`, lowered per sample so that `|weight * difference|` is at most `max_ratio * |reference|`.

    `difference` and `reference` [rows, ...] are in the same space; the norms are Euclidean, over all but the rows.
    After AutoGuidance, which bounds what guidance adds to a prediction.
    """
    change = (weight * difference).flatten(1).norm(dim=1)
    allowed = max_ratio * reference.flatten(1).norm(dim=1)
    share = (allowed / change.clamp_min(1e-12)).clamp(max=1.0)
    return weight * share.reshape(-1, *[1] * (difference.ndim - 1))


def where_guided(strength: float, weights: Iterable[Weight]) -> Weight:
    """`strength` for the rows that one of `weights` guides, and 0 for rows that are the base's, as they are alone."""
    total = sum(abs(weight) for weight in weights)
    if not isinstance(total, Tensor):
        return strength
    guided = total.flatten(1).amax(1) > NEGLIGIBLE
    return strength * guided.float().reshape(-1, *[1] * (total.ndim - 1))


def rescale(prediction: Tensor, reference: Tensor, strength: Weight) -> Tensor:
    """Moves the standard deviation of `prediction` towards that of `reference`, per sample, by `strength` in [0, 1].

    Both have the same shape [rows, ...]; the strength is one number, or one per row [rows, 1, ...]. Source: Lin et al.,
    arXiv 2305.08891, section 3.4.
    """
    dims = tuple(range(1, prediction.ndim))
    ratio = reference.std(dim=dims, keepdim=True) / prediction.std(dim=dims, keepdim=True)
    return prediction * (strength * ratio + (1.0 - strength))
