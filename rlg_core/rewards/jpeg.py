"""JPEG (in)compressibility (DDPO, arXiv 2305.13301; Flow-GRPO): the file size of a picture. It needs no model."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from torch import Tensor

from ..pictures import to_picture

QUALITY = 95


def kilobytes(picture: Tensor) -> float:
    """The size of a picture [h, w, 3] in [0, 1] as a JPEG at quality 95, in units of 1000 bytes."""
    buffer = io.BytesIO()
    to_picture(picture).save(buffer, format="JPEG", quality=QUALITY)
    return buffer.tell() / 1000


def incompressibility(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
    """Kilobytes [n] of pictures [n, h, w, 3]. The prompts do not count."""
    return torch.tensor([kilobytes(picture) for picture in pictures])


def compressibility(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
    """Minus kilobytes [n] of pictures [n, h, w, 3]. Flow-GRPO also divides by 500."""
    return -incompressibility(pictures, prompts)
