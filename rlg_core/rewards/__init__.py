"""Rewards: how good a picture is for a prompt. Higher is better. One table lists all kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..errors import RLGError
from .brightness import brightness
from .cache import Score, ScoreCache, batches
from .clip import aesthetic, clip_score, pick_score
from .files import check_downloaded
from .hps import hps
from .image_reward import image_reward
from .jpeg import compressibility, incompressibility
from .ocr import TextReward, rapidocr_reader
from .scenes import scene_score

__all__ = ["KINDS", "Kind", "Loaded", "Score", "ScoreCache", "batches", "load_reward"]

Loaded = nn.Module | Score
"""Called with pictures [n, h, w, 3] in [0, 1] and n prompts, it returns n scores. A module if it has weights."""


@dataclass(frozen=True)
class Kind:
    """`load(folder, clip_tokenizer)` returns the reward. `folder` holds its model if `needs_folder`."""

    load: Callable[[Path, Path], Loaded]
    about: str
    needs_folder: bool = True
    needs_prompt: bool = True


KINDS: dict[str, Kind] = {
    "JPEG compressibility": Kind(lambda *_: compressibility, "minus kilobytes as JPEG at quality 95", False, False),
    "JPEG incompressibility": Kind(lambda *_: incompressibility, "kilobytes as JPEG at quality 95", False, False),
    "text rendering (OCR)": Kind(
        lambda *_: TextReward(rapidocr_reader()),
        "1 - edit distance to the text in double quotes, over its length",
        False,
    ),
    "CLIP score": Kind(clip_score, "100 x cosine of picture and prompt"),
    "PickScore": Kind(pick_score, "PickScore v1"),
    "HPSv2.1": Kind(hps, "Human Preference Score v2.1"),
    "ImageReward": Kind(image_reward, "ImageReward v1.0"),
    "LAION aesthetic": Kind(aesthetic, "LAION aesthetic predictor v2, about 1 to 10", needs_prompt=False),
    "scene judge (demo)": Kind(lambda *_: scene_score, "right number, colour and shape in the demo's scenes", False),
    "brightness (demo)": Kind(lambda *_: brightness, "mean luma, which a demo adapter was trained for", False, False),
}


def load_reward(name: str, folder: Path, clip_tokenizer: Path) -> Loaded:
    """The reward of that name, with its model from `folder` if it has one.

    Raises `RLGError` for a model that cannot be loaded.
    """
    kind = KINDS[name]
    if kind.needs_folder:
        check_downloaded(folder)
    try:
        return kind.load(folder, clip_tokenizer)
    except RLGError:
        raise
    except Exception as error:  # unpicklers and `transformers` raise whatever the bytes lead them to
        where = folder if kind.needs_folder else "its package"
        raise RLGError(
            f"{where}: {name} cannot be loaded from it ({type(error).__name__}: {str(error)[:200]}). "
            "The node's help lists the files it needs; download them again if they are these."
        ) from error
