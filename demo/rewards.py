"""The rewards of the demo: pictures (B, 3, H, W) in [0, 1] and their prompts to scores (B,), higher is better."""

from __future__ import annotations

import io

import torch
from PIL import Image

from . import judge
from .scenes import Prompt

LUMA = (0.299, 0.587, 0.114)
JPEG_QUALITY = 95


def brightness(pictures: torch.Tensor, prompts: list[Prompt]) -> torch.Tensor:
    """Mean luma of the picture (Rec. 601): a smooth style reward."""
    return torch.einsum("bchw,c->b", pictures, torch.tensor(LUMA).to(pictures)) / pictures[0, 0].numel()


def jpeg(pictures: torch.Tensor, prompts: list[Prompt]) -> torch.Tensor:
    """Minus the size in kilobytes as JPEG at quality 95: compressibility (DDPO, arXiv 2305.13301)."""
    return torch.tensor([-len(jpeg_bytes(p)) / 1000 for p in pictures])


def jpeg_bytes(picture: torch.Tensor) -> bytes:
    """A picture (3, H, W) in [0, 1] as a JPEG file."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def composition(pictures: torch.Tensor, prompts: list[Prompt]) -> torch.Tensor:
    """The judge's dense score: right number, colour and shape."""
    return torch.tensor([judge.score(f, p) for f, p in zip(judge.find(pictures), prompts)])


def correctness(pictures: torch.Tensor, prompts: list[Prompt]) -> torch.Tensor:
    """1 where the judge finds number, colour and shape as asked, else 0. Reported, not trained on."""
    return torch.tensor([float(ok) for ok in judge.judge(pictures, prompts)])


REWARDS = {"brightness": brightness, "jpeg": jpeg, "composition": composition}
