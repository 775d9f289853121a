"""Prepares pictures [n, h, w, 3] in [0, 1] as reward networks expect them: [n, 3, size, size], normalised."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def _resized(pictures: Tensor, height: int, width: int) -> Tensor:
    """Resizes bytes on the CPU, as PIL does: PIL made the pictures that these networks were trained on."""
    if pictures.shape[-2:] == (height, width):
        return pictures
    return functional.interpolate(pictures, size=(height, width), mode="bicubic", antialias=True)


def crop(pictures: Tensor, size: int) -> Tensor:
    """Scales the shorter side of bytes [n, 3, h, w] to `size` and cuts out the middle.

    This is the way of CLIP and most others, which round the longer side down.
    """
    height, width = pictures.shape[-2:]
    scaled = _resized(pictures, size * height // min(height, width), size * width // min(height, width))
    top, left = (scaled.shape[-2] - size) // 2, (scaled.shape[-1] - size) // 2
    return scaled[..., top : top + size, left : left + size]


def pad(pictures: Tensor, size: int) -> Tensor:
    """Scales the longer side of bytes [n, 3, h, w] to `size` and pads the other with black, as HPSv2 does."""
    height, width = pictures.shape[-2:]
    factor = size / max(height, width)
    scaled = _resized(pictures, max(1, round(height * factor)), max(1, round(width * factor)))
    rows, columns = size - scaled.shape[-2], size - scaled.shape[-1]
    return functional.pad(scaled, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def prepared(pictures: Tensor, size: int, fit: Callable[[Tensor, int], Tensor]) -> Tensor:
    """[n, h, w, 3] in [0, 1] -> [n, 3, size, size] in float32 on the CPU, normalised by CLIP's mean and deviation."""
    pixels = (pictures[..., :3].float().clamp(0, 1) * 255).round().byte().movedim(-1, 1).cpu()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (fit(pixels, size) / 255 - mean) / std
