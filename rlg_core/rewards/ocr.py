"""Text rendering, read by OCR (Flow-GRPO, arXiv 2505.05470): 1 - edit distance to the wanted text over its length."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import RLGError, shortened
from ..pictures import to_picture

QUOTED = re.compile(r'"([^"]+)"|\u201c([^\u201d]+)\u201d')

Reader = Callable[[np.ndarray], str]
"""Returns all text in a picture [h, w, 3] of bytes."""


def wanted_text(prompt: str) -> str:
    """The text in the first pair of double quotes of the prompt. Raises `RLGError` if there is none."""
    match = QUOTED.search(prompt)
    if match is None or not (match[1] or match[2]).strip():
        raise RLGError(
            'The text reward takes the wanted text from double quotes in the prompt, as in: a sign that says "open". '
            f"This prompt has none: {shortened(prompt)}."
        )
    return match[1] or match[2]


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: the fewest insertions, deletions and replacements of one character."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def text_score(read: str, wanted: str) -> float:
    """A score in [0, 1]. Case and spaces do not count, and text around the wanted text does not lower it."""
    read, wanted = ("".join(text.lower().split()) for text in (read, wanted))
    if wanted in read:
        return 1.0
    return 1.0 - min(edit_distance(read, wanted), len(wanted)) / len(wanted)


def rapidocr_reader() -> Reader:
    """The OCR of `rapidocr-onnxruntime`, which carries its models. Raises `RLGError` if it is not installed."""
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as error:
        raise RLGError(
            f"The text reward needs the package rapidocr-onnxruntime ({error}). Install it into ComfyUI's Python: "
            "python -m pip install rapidocr-onnxruntime"
        ) from error
    engine = RapidOCR()

    def read(picture: np.ndarray) -> str:
        lines, _ = engine(np.ascontiguousarray(picture[..., ::-1]))  # it takes BGR
        return "".join(text for _, text, _ in lines or [])

    return read


class TextReward:
    """Scores pictures by the text read in them."""

    def __init__(self, reader: Reader):
        self.reader = reader

    def __call__(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        wanted = [wanted_text(prompt) for prompt in prompts]
        read = [self.reader(np.asarray(to_picture(picture))) for picture in pictures]
        return torch.tensor([text_score(text, target) for text, target in zip(read, wanted)])
