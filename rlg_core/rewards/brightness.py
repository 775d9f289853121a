"""Mean brightness of a picture: a style reward that needs no model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""


def brightness(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
    """Mean luma [n] of pictures [n, h, w, 3] in [0, 1]. The prompts do not count."""
    return (pictures[..., :3].float().mean((1, 2)) * torch.tensor(LUMA).to(pictures)).sum(-1)
