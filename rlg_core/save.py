"""Terms written as an adapter file: a ComfyUI LoRA or a PEFT adapter, at the strength they have, whole or not at all."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .errors import AdapterError
from .names import NameMap, Target
from .terms import AdditiveTerm, Hadamard, Kronecker, LowRank

PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Part:
    """A term on a weight's rows `(first, number)`, or on all of it."""

    term: AdditiveTerm
    rows: tuple[int, int] | None = None


Parts = Mapping[str, Sequence[Part]]
"""What is to be saved, by the host's key."""


def summed(parts: Sequence[Part], height: int) -> LowRank:
    """Low-rank terms on parts of one weight as one term on all its `height` rows: factors side by side, zeros elsewhere.

    Where the scales agree the factors are left as they are.
    """
    terms = [part.term.without_mid() for part in parts]
    scales = {term.scale for term in terms}
    ups = [_placed(_scaled_up(term, len(scales) > 1), part.rows, height) for term, part in zip(terms, parts)]
    scale = scales.pop() if len(scales) == 1 else 1.0
    down = terms[0].down if len(terms) == 1 else torch.cat([_common(term.down, terms) for term in terms])
    return LowRank(ups[0] if len(ups) == 1 else torch.cat([_common(up, terms) for up in ups], 1), down, scale)


def _common(tensor: Tensor, terms: Iterable[LowRank]) -> Tensor:
    dtypes = {term.down.dtype for term in terms}
    return tensor if len(dtypes) == 1 and tensor.dtype in dtypes else tensor.float()


def _scaled_up(term: LowRank, fold: bool) -> Tensor:
    """`up`, with the scale in it where asked; in float32 where its own dtype would round the product."""
    up = term.up.flatten(1)
    if not fold:
        return up
    exact = up.float() * term.scale
    return exact.to(up.dtype) if torch.equal(exact.to(up.dtype).float(), exact) else exact


def _placed(up: Tensor, rows: tuple[int, int] | None, height: int) -> Tensor:
    if rows is None or rows == (0, height):
        return up
    whole = up.new_zeros(height, up.shape[1])
    whole.narrow(0, *rows).copy_(up)
    return whole


def comfyui_tensors(parts: Parts, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a LoRA that the stock loader reads at true strength, under the host's own names.

    `shapes`: those of the host's weights. What is neither low-rank nor one whole LoHa or LoKr is saved as a full difference.
    """
    tensors: dict[str, Tensor] = {}
    for key, own in parts.items():
        name, shape = key.removesuffix(".weight"), shapes[key]
        if all(isinstance(part.term, LowRank) for part in own):
            tensors |= _lora_tensors(name, summed(own, shape[0]), shape)
        elif len(own) == 1 and own[0].rows is None and type(own[0].term) in COMPACT:
            tensors |= {f"{name}.{part}": value for part, value in COMPACT[type(own[0].term)](own[0].term).items()}
        elif key.endswith(".bias"):
            tensors[key.removesuffix(".bias") + ".diff_b"] = _dense(own, shape)
        else:
            tensors[f"{name}.diff"] = _dense(own, shape)
    return tensors


def _lora_tensors(name: str, term: LowRank, shape: tuple[int, ...]) -> dict[str, Tensor]:
    up, down = term.up, term.down
    return {
        f"{name}.lora_up.weight": up.reshape(*up.shape, *[1] * (len(shape) - 2)),
        f"{name}.lora_down.weight": down.reshape(down.shape[0], *shape[1:]),
        f"{name}.alpha": torch.tensor(float(term.scale * term.rank)),
    }


def _loha_parts(term: Hadamard) -> dict[str, Tensor]:
    left, right = term.left.without_mid(), term.right.without_mid()
    alpha = term.scale * left.scale * right.scale * left.rank
    return {
        "hada_w1_a": left.up,
        "hada_w1_b": left.down.flatten(1),
        "hada_w2_a": right.up,
        "hada_w2_b": right.down.flatten(1),
        "alpha": torch.tensor(float(alpha)),
    }


def _lokr_parts(term: Kronecker) -> dict[str, Tensor]:
    # with two full factors nothing scales the product, so the scale goes into the smaller one
    return {"lokr_w1": term.left if term.scale == 1.0 else term.left.float() * term.scale, "lokr_w2": term.right}


COMPACT = {Hadamard: _loha_parts, Kronecker: _lokr_parts}


def _dense(parts: Sequence[Part], shape: tuple[int, ...]) -> Tensor:
    total = torch.zeros(shape)
    for part in parts:
        rows = total if part.rows is None else total.narrow(0, *part.rows)
        rows += part.term.delta_weight().cpu().reshape(rows.shape)
    return total


def peft_tensors(parts: Parts, names: NameMap) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The tensors of a PEFT adapter under diffusers' names, and its `adapter_config.json`.

    Raises `AdapterError` for changes that a PEFT LoRA cannot hold, and for weights without a diffusers name.
    """
    sources: dict[str, list[tuple[str, Target]]] = {}
    for name, target in names.source_names():
        sources.setdefault(target.key, []).append((name, target))
    modules: dict[str, LowRank] = {}
    for key, own in parts.items():
        if not all(isinstance(part.term, LowRank) for part in own):
            raise AdapterError(
                f"{key}: a {type(own[0].term).__name__} change has no place in a PEFT LoRA. Save it in the comfyui format."
            )
        found = {
            name: term
            for name, target in _separate(sources.get(key, []))
            if (term := _of_source(own, target)) is not None
        }
        if not found:
            raise AdapterError(f"{key}: this weight has no name in diffusers. Save it in the comfyui format.")
        modules |= found
    tensors = {}
    for name, term in modules.items():
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = term.down
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = term.up.reshape(*term.up.shape, *[1] * (term.down.ndim - 2))
    return tensors, _peft_config(modules)


def _separate(sources: list[tuple[str, Target]]) -> list[tuple[str, Target]]:
    """The first name of each part of a weight; the parts rather than the whole where there are parts."""
    first: dict[tuple[int, int] | None, tuple[str, Target]] = {}
    for name, target in sources:
        first.setdefault(target.rows, (name, target))
    return [pair for rows, pair in first.items() if rows is not None] or list(first.values())


def _of_source(parts: Sequence[Part], target: Target) -> LowRank | None:
    """What the parts change in one source module; None where they leave it as it is."""
    start, length = target.rows or (0, target.shape[0])
    inside = [part for part in parts if part.rows is None or part.rows[0] < start + length and start < sum(part.rows)]
    if not inside:
        return None
    if len(inside) == 1 and inside[0].rows == target.rows:
        term = summed([replace(inside[0], rows=None)], length)
    else:
        term = summed(inside, target.shape[0])
        term = replace(term, up=term.up.narrow(0, start, length))
    return replace(term, up=torch.roll(term.up, length // 2, 0)) if target.swapped else term


def _peft_config(modules: Mapping[str, LowRank]) -> dict[str, object]:
    """The config PEFT writes; ranks and alphas that differ from the most common ones by module."""
    ranks = {name: term.rank for name, term in modules.items()}
    alphas = {name: term.scale * term.rank for name, term in modules.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": sorted(modules),
        "rank_pattern": {_exactly(name): own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {_exactly(name): own for name, own in alphas.items() if own != alpha},
    }


def _exactly(name: str) -> str:
    """A pattern of PEFT's that matches this module and no other that ends in its name."""
    return "^" + name.replace(".", r"\.")


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file whole or not at all. Raises `AdapterError` where `path` exists."""
    if path.exists():
        raise AdapterError(f"{path}: there is a file of that name already; it is not overwritten.")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
            unfinished,
            {"format": "pt", **metadata},
        )
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_peft(
    folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, object], metadata: Mapping[str, str]
) -> None:
    """Writes a PEFT adapter folder whole or not at all. Raises `AdapterError` where `folder` exists."""
    if folder.exists():
        raise AdapterError(f"{folder}: there is a folder of that name already; it is not overwritten.")
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    weights, written = unfinished / "adapter_model.safetensors", unfinished / "adapter_config.json"
    try:
        write(weights, tensors, metadata)
        written.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        unfinished.rename(folder)
    finally:
        if unfinished.exists():
            weights.unlink(missing_ok=True)
            written.unlink(missing_ok=True)
            unfinished.rmdir()
