"""Seeded random tensors, and how far two of them are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def random(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    """Normal values with deviation `size`; tensors of other shapes are not slices of each other."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + seed)) * size


def random_weights(network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep the size of activations; norms and biases as they start out."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator) * value[0].numel() ** -0.5
        if value.ndim > 1
        else torch.full_like(value, float(name.endswith("weight")))
        for name, value in network.state_dict().items()
    }


def cloned(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights in memory of their own."""
    return {name: value.clone() for name, value in weights.items()}


def rms(a: Tensor) -> float:
    """The root mean square of all values."""
    return math.sqrt(a.float().square().mean())


def largest(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors, wherever they are."""
    return float((a.cpu() - b.cpu()).abs().max())
