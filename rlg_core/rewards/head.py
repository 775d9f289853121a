"""The small stack of linear layers that turns features into one score (LAION aesthetic, ImageReward)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import RLGError


class LinearStack(nn.Module):
    """Linear layers without activations between them, as in both models, in float32: [n, features] -> [n]."""

    def __init__(self, weights: Mapping[str, Tensor], source: str):
        """`weights` are `layers.0.weight`, `layers.0.bias`, `layers.2.weight`, ...: dropout layers are counted too.

        Raises `RLGError` if they are not linear layers that end in one score.
        """
        super().__init__()
        numbers = sorted({int(name.split(".")[1]) for name in weights if name.startswith("layers.")})
        if not numbers or weights[f"layers.{numbers[-1]}.weight"].shape[0] != 1:
            raise RLGError(f"{source}: expected linear layers layers.<number>.weight that end in one score.")
        self.weights = nn.ParameterList(self._frozen(weights[f"layers.{n}.weight"]) for n in numbers)
        self.biases = nn.ParameterList(self._frozen(weights[f"layers.{n}.bias"]) for n in numbers)

    @staticmethod
    def _frozen(tensor: Tensor) -> nn.Parameter:
        return nn.Parameter(tensor.detach().clone(), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        x = features.float()
        for weight, bias in zip(self.weights, self.biases):
            x = functional.linear(x, weight.to(x.dtype), bias.to(x.dtype))
        return torch.squeeze(x, -1)
