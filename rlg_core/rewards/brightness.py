"""Mean brightness of a picture: a style reward on no model at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""


def brightness(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
    """Mean luma of pictures [n, h, w, 3] in [0, 1]: [n]."""
    return (pictures[..., :3].float().mean((1, 2)) * torch.tensor(LUMA).to(pictures)).sum(-1)
