"""Scores cached by the content of the picture and its prompt, so that none is computed twice."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LIMIT = 65536
"""Number of scores kept, a few megabytes. The least recently used are dropped first."""

Score = Callable[[Tensor, Sequence[str]], Tensor]


def picture_key(picture: Tensor) -> bytes:
    """A hash of the shape and the values of a picture [h, w, 3]."""
    data = picture.detach().float().contiguous().cpu().numpy()
    return hashlib.blake2b(data.tobytes(), digest_size=16, person=str(tuple(data.shape)).encode()[:16]).digest()


class ScoreCache:
    """One reward's scores, by picture and prompt."""

    def __init__(self, limit: int = LIMIT):
        self.limit = limit
        self.scores: OrderedDict[tuple[bytes, str], float] = OrderedDict()

    def __call__(self, score: Score, pictures: Tensor, prompts: Sequence[str]) -> list[float]:
        """The scores of pictures [n, h, w, 3] for their n prompts; calls `score` for the unknown ones only."""
        keys = [(picture_key(picture), prompt) for picture, prompt in zip(pictures, prompts)]
        known = {key: self.scores[key] for key in keys if key in self.scores}
        new = {key: k for k, key in enumerate(keys) if key not in known}
        if new:
            rows = list(new.values())
            known |= zip(new, score(pictures[rows], [prompts[k] for k in rows]).double().tolist())
        self._remember({key: known[key] for key in keys})
        return [known[key] for key in keys]

    def _remember(self, scores: dict[tuple[bytes, str], float]) -> None:
        self.scores.update(scores)
        for key in scores:
            self.scores.move_to_end(key)
        while len(self.scores) > self.limit:
            self.scores.popitem(last=False)


def batches(score: Score, size: int) -> Score:
    """`score`, called with at most `size` pictures at a time."""

    def batched(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        parts = [score(pictures[k : k + size], prompts[k : k + size]) for k in range(0, len(pictures), size)]
        return torch.cat([part.detach().float().cpu() for part in parts])

    return batched
