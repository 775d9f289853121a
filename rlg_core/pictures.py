"""Pictures as tensors [height, width, 3] in [0, 1]: conversion from and to PIL, and the distance between them."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

GRAIN = 64
"""Side in pixels at which pictures are compared: distances then reflect what is shown and where, not fine noise."""


def to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0)


def to_picture(tensor: Tensor) -> Image.Image:
    """A tensor [height, width, channels >= 3] in [0, 1] as a PIL picture."""
    return Image.fromarray((tensor[..., :3].float().clamp(0, 1) * 255).round().byte().cpu().numpy())


def picture_distance(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square difference [n] of pictures [n, h, w, 3] in [0, 1], averaged down to at most 64 pixels per side.

    0 means the same picture, 1 black against white.
    """
    return (_grain(a) - _grain(b)).square().mean(dim=(1, 2, 3)).sqrt()


def _grain(pictures: Tensor) -> Tensor:
    size = (min(GRAIN, pictures.shape[1]), min(GRAIN, pictures.shape[2]))
    return functional.adaptive_avg_pool2d(pictures[..., :3].float().movedim(-1, 1), size)


def diversity(pictures: Tensor) -> float:
    """Mean distance over all pairs of `pictures` [n, h, w, 3]; NaN for one picture.

    It falls in preference collapse, and where pictures saturate.
    """
    if len(pictures) < 2:
        return math.nan
    small = _grain(pictures).flatten(1)
    return float(torch.pdist(small).mean()) / math.sqrt(small.shape[1])


def structure_diversity(pictures: Tensor) -> float:
    """As `diversity`, of pictures brought to one mean per channel and one contrast first; NaN for one picture.

    It does not fall where pictures get brighter, darker or more saturated alike, only where they show the same: 0 for
    pictures that do, 1 for pictures that have nothing in common.
    """
    if len(pictures) < 2:
        return math.nan
    small = _grain(pictures).flatten(2)
    plain = (small - small.mean(2, keepdim=True)).flatten(1)
    contrast = plain.square().mean(1, keepdim=True).sqrt()
    return float(torch.pdist(plain / contrast.clamp_min(1e-6)).mean()) / math.sqrt(2.0 * plain.shape[1])
