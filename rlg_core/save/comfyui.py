"""An adapter as a LoRA file that stock ComfyUI loads at true strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..algebra import LowRank, Placed, total_delta
from .low_rank import Changes, summed


def comfyui_tensors(changes: Changes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a LoRA that the stock loader reads at true strength, under the host's own names.

    `shapes` are those of the host's weights. Changes without a compact form are saved as full differences.
    """
    tensors: dict[str, Tensor] = {}
    for key, placed in changes.items():
        tensors |= _of_weight(key, placed, shapes[key])
    return tensors


def _of_weight(key: str, placed: Sequence[Placed], shape: tuple[int, ...]) -> dict[str, Tensor]:
    name = key.removesuffix(".weight")
    if all(isinstance(change.term, LowRank) for change in placed):
        return _lora_tensors(name, summed(placed, shape), shape)
    parts = placed[0].term.as_parts() if len(placed) == 1 and placed[0].at is None else None
    if parts is not None:
        return {f"{name}.{part}": value for part, value in parts.items()}
    if key.endswith(".bias"):
        return {key.removesuffix(".bias") + ".diff_b": total_delta(placed, shape)}
    return {f"{name}.diff": total_delta(placed, shape)}


def _lora_tensors(name: str, term: LowRank, shape: tuple[int, ...]) -> dict[str, Tensor]:
    up, down = term.up, term.down
    return {
        f"{name}.lora_up.weight": up.reshape(*up.shape, *[1] * (len(shape) - 2)),
        f"{name}.lora_down.weight": down.reshape(down.shape[0], *shape[1:]),
        f"{name}.alpha": torch.tensor(float(term.scale * term.rank)),
    }
