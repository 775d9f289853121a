"""A base and an RL checkpoint: two models that share what they can, or one with the difference beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....rlg_core.errors import PairError
from ..compat import is_streamed, stored_tensors
from . import extraction, sides
from .checkpoints import load_gguf, load_model, reload_model
from .files import is_gguf
from .relation import relate
from .streamed import streamed

Loaded = tuple[ModelPatcher, ModelPatcher, str]


def load_pair(base: Path, rl: Path, options: Mapping[str, Any], rank: int | None) -> Loaded:
    """The models in two files and a report on them; with `rank`, the RL model at low rank on the base's weights.

    Raises `AdapterError` for a file that cannot be loaded whole, and `PairError` for two that are not a base and its
    RL-tuned version.
    """
    return _two_models(base, rl, options) if rank is None else _one_model(base, rl, options, rank)


def _two_models(base: Path, rl: Path, options: Mapping[str, Any]) -> Loaded:
    model, rl_model = load_model(base, options), load_model(rl, options)
    with _named(base, rl):
        relate(model, rl_model)
    shared, total = share_identical(model, rl_model)
    lines = [
        f"{rl.name} on {base.name}: two {type(model.model).__name__} models.",
        f"Weights: {total / 2**20:.1f} MB each, {shared / 2**20:.1f} MB of them the same in both and held once.",
    ]
    if shared == total:
        lines.append("Both files hold the same weights: guidance will change nothing.")
    return model, rl_model, "\n".join(lines)


def _one_model(base: Path, rl: Path, options: Mapping[str, Any], rank: int) -> Loaded:
    """The difference is taken off the files: rounding to fp8, which `options` may do, is larger than what RL changes.

    One weight of each is held at a time, and the base is loaded after that.
    """
    found, _ = extract_from_files(base, rl, rank, 1.0)
    model = load_gguf(base, options) if is_gguf(base) else reload_model(str(base), dict(options))
    rl_model = extraction.with_terms(model, found.terms)
    heading = f"{rl.name} at low rank on {base.name}: one {type(model.model).__name__} model."
    return model, rl_model, f"{heading}\n{extraction.report(model, found)}"


def extract_from_files(base: Path, rl: Path, rank: int, energy: float) -> tuple[extraction.Extraction, str]:
    """The difference of two models in files, neither of which is loaded, and the report on it.

    Raises `AdapterError` for a file that cannot be loaded whole, and `PairError` for two that are not a base and its
    RL-tuned version, or are identical.
    """
    with _opened(base) as ours, _opened(rl) as theirs, _named(base, rl):
        found = extraction.extract_between(ours, theirs, rank, energy)
        return found, extraction.report(ours.model, found)


@contextmanager
def _opened(path: Path) -> Iterator[sides.Side]:
    """One side of an extraction. The loader of GGUF files leaves weights in them by itself."""
    if is_gguf(path):
        yield sides.Loaded(load_gguf(path, {}))
        return
    with streamed(path) as side:
        yield side


@contextmanager
def _named(base: Path, rl: Path) -> Iterator[None]:
    """Puts the names of both files before a `PairError`."""
    try:
        yield
    except PairError as error:
        raise PairError(f"{base.name} and {rl.name}: {error}") from error


def share_identical(base: ModelPatcher, rl: ModelPatcher) -> tuple[int, int]:
    """Makes bit-identical weights of `rl` share `base`'s memory. Returns (shared bytes, total bytes).

    Only the memory is shared, not the parameter: the host moves and patches each model by itself, and puts new memory
    in place of the old. Models that the host streams from their files or keeps on a GPU share nothing.
    """
    weights = dict(base.model.diffusion_model.named_parameters())
    shared = total = 0
    for name, weight in rl.model.diffusion_model.named_parameters():
        theirs = stored_tensors(weight)
        total += sum(tensor.nbytes for tensor in theirs)
        if is_streamed(rl) or name not in weights:
            continue
        for our, their in zip(stored_tensors(weights[name]), theirs):
            if _same_bits(our.data, their.data):
                their.data = our.data
                shared += their.nbytes
    return shared, total


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if type(a) is not Tensor or type(b) is not Tensor or a.device.type != "cpu" or b.device.type != "cpu":
        return False
    if a.shape != b.shape or a.dtype != b.dtype or not (a.is_contiguous() and b.is_contiguous()):
        return False
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
