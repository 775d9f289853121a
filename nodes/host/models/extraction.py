"""Extracts the difference of two MODELs as low-rank terms on one copy of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import comfy.lora
import comfy.model_management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ....rlg_core.algebra import Delta, LowRank, Placed
from ....rlg_core.errors import PairError
from ....rlg_core.lowrank import BFLOAT16, squared_norm, truncate
from ....rlg_core.rows import is_linear_or_conv
from ....rlg_core.save import comfyui_tensors, write
from ..compat import (
    UNUSED_WEIGHTS,
    compute_dtype,
    is_quantisation_key,
    is_rounded_when_patched,
    refuse_opaque_layers,
    trim,
    weight_shape,
    without_injections,
)
from .adapters import PREFIX, name_map
from .files import new_file
from .relation import KEY, relate
from .sides import Loaded, Side, differing_buffers
from .stock import as_patch

Lasting = LowRank | Delta
WORKING_COPIES = 6
"""Copies of the largest weight, in float32, that one decomposition needs at its peak."""


@dataclass(frozen=True)
class Extraction:
    """The terms that turn a base into its RL model: one for each weight that differs, out of `compared` weights.

    `norms` are the squared norms of the differences, `kept` the shares of them that the terms keep, and `floors` the
    squared norms that the rounding of the two files alone would give them.
    """

    terms: Mapping[str, Lasting]
    kept: Mapping[str, float]
    norms: Mapping[str, float]
    floors: Mapping[str, float]
    compared: int

    def kept_in_all(self) -> float:
        return sum(self.kept[key] * norm for key, norm in self.norms.items()) / sum(self.norms.values())

    def floor_in_all(self) -> float:
        """The share of the difference's energy that rounding alone would give it, at most 1."""
        return min(1.0, sum(self.floors.values()) / sum(self.norms.values()))

    def kept_above_floor(self) -> float:
        """What the terms keep of the energy above that floor, at most all of it. NaN where there is none."""
        above = 1.0 - self.floor_in_all()
        return min(1.0, self.kept_in_all() / above) if above else math.nan


def extract(model: ModelPatcher, rl_model: ModelPatcher, rank: int, energy: float) -> Extraction:
    """The difference of `rl_model` and `model`, patches included.

    Linear and convolution weights are kept at low rank if that is smaller than the weight itself, all others exactly.
    A fused weight gets `rank` for each layer fused in it. Raises `PairError` if the two are not a base and its RL-tuned
    version, or are identical.
    """
    with without_injections(model.model), without_injections(rl_model.model):
        return extract_between(Loaded(model), Loaded(rl_model), rank, energy)


@torch.no_grad()
def extract_between(base: Side, rl: Side, rank: int, energy: float) -> Extraction:
    """As `extract`, of any two sides. One weight of each is read at a time."""
    model = base.model
    keys = _comparable(base, rl)
    sizes = [math.prod(weight_shape(model, key)) for key in keys]
    comfy.model_management.free_memory(WORKING_COPIES * 4 * max(sizes, default=0), model.load_device)
    terms, kept, norms, floors, fused = {}, {}, {}, {}, _fused_layers(model)
    progress = comfy.utils.ProgressBar(len(keys))
    for key in keys:
        comfy.model_management.throw_exception_if_processing_interrupted()
        delta = _difference(base, rl, key)
        if delta is not None:
            norms[key], floors[key] = squared_norm(delta), _rounding(base, rl, key)
            dtype = _factor_dtype(model, norms[key], floors[key])
            terms[key], kept[key] = _term(model, key, delta, rank * fused.get(key, 1), energy, floors[key], dtype)
            del delta
            trim()  # whole weights came and went, and two small factors stay
        progress.update(1)
    if not terms:
        raise PairError("model and rl_model are identical: there is no difference to extract.")
    return Extraction(terms, kept, norms, floors, len(keys))


def _comparable(base: Side, rl: Side) -> list[str]:
    """The keys of weights in which the two may differ. Raises `PairError` if they are no pair or differ elsewhere."""
    model, rl_model = base.model, rl.model
    for name, patcher in (("model", model), ("rl_model", rl_model)):
        if patcher.attachments.get(KEY) is not None:
            raise PairError(f"{name} has RLG on it. Give the model as it was before Reinforcement Learning Guidance.")
    if model.model is rl_model.model:
        return [key for key in dict.fromkeys([*model.patches, *rl_model.patches]) if key.startswith(PREFIX)]
    relate(model, rl_model)
    differing = differing_buffers(base, rl)
    if differing:
        names = ", ".join(differing[:3])
        known = all(not isinstance(side, Loaded) or side.file for side in (base, rl))
        hint = "" if known else " If the files only differ in precision, load them with Load RLG Checkpoint Pair."
        raise PairError(
            f"The RL model changes buffers, which no adapter can hold: {names}. Use both checkpoints.{hint}"
        )
    refuse_opaque_layers(model)
    names = (name for name, _ in model.model.diffusion_model.named_parameters())
    return [PREFIX + name for name in names if name not in UNUSED_WEIGHTS and not is_quantisation_key(name)]


def _fused_layers(model: ModelPatcher) -> dict[str, int]:
    """By weight: how many separately trained layers the host has fused in it.

    Changes of rank r in each of q, k and v make a change of rank 3r in the fused weight.
    """
    cuts: dict[str, set[tuple[int, int]]] = {}
    for _, target in name_map(model).source_names():
        if target.cut is not None:
            cuts.setdefault(target.key, set()).add(target.cut)
    return {key: len(parts) for key, parts in cuts.items()}


def _difference(base: Side, rl: Side, key: str) -> Tensor | None:
    """`W_rl - W_base` in float32, or None if the two are equal."""
    delta = rl.weight(key)
    delta -= base.weight(key)
    if not bool(delta.any()):
        return None
    if not all(map(math.isfinite, torch.stack(delta.aminmax()).tolist())):
        raise PairError(f"{key}: base or RL model has NaN or infinite values, expected finite ones.")
    return delta


def _rounding(base: Side, rl: Side, key: str) -> float:
    """The squared norm that the rounding of both weights gives their difference; 0 where they are one weight."""
    if base.model.model is rl.model.model:
        return 0.0
    return base.rounding(key) + rl.rounding(key)


def _factor_dtype(model: ModelPatcher, norm: float, floor: float) -> torch.dtype:
    """The dtype the model computes in; where that is float32, bfloat16 if the files are rounded by more than this is.

    `norm` is the squared norm of a difference, `floor` the part of it that is rounding. Both factors are rounded.
    """
    computed = compute_dtype(model)
    return torch.bfloat16 if computed == torch.float32 and 2 * BFLOAT16**2 * norm < floor else computed


def _term(
    model: ModelPatcher, key: str, delta: Tensor, rank: int, energy: float, floor: float, dtype: torch.dtype
) -> tuple[Lasting, float]:
    """The term for `delta`, with factors in `dtype`, and the share of `|delta|^2` it keeps."""
    module, parameter = _owner(model, key)
    fits = parameter == "weight" and is_linear_or_conv(module)
    if not fits or rank * (delta.shape[0] + delta[0].numel()) >= delta.numel():
        return Delta(delta.cpu()), 1.0
    found = truncate(delta, rank, energy, floor)
    return LowRank(found.term.up.to("cpu", dtype), found.term.down.to("cpu", dtype)), found.kept


def _owner(model: ModelPatcher, key: str) -> tuple[nn.Module, str]:
    path, parameter = key.rsplit(".", 1)
    return model.model.get_submodule(path), parameter


def with_terms(model: ModelPatcher, terms: Mapping[str, Lasting]) -> ModelPatcher:
    """A clone of `model` with `terms` on it as patches that every sampler and RLG understand."""
    clone = model.clone()
    placed = clone.add_patches({key: as_patch(term) for key, term in terms.items()})
    missing = [key for key in terms if key not in placed]
    if missing:
        raise PairError(f"ComfyUI took {len(placed)} of {len(terms)} changes and left out {', '.join(missing[:3])}.")
    return clone


def save(found: Extraction, filename_prefix: str) -> Path:
    """Writes `found` below the output folder, under the next free number, as a LoRA that stock nodes can load."""
    path = new_file(filename_prefix, ".safetensors")
    changes = {key: [Placed(key.rsplit(".", 1)[1], term)] for key, term in found.terms.items()}
    tensors = comfyui_tensors(changes, {key: term.shape for key, term in found.terms.items()})
    write(path, tensors, {"kept_energy": f"{found.kept_in_all():.6f}"})
    return path


def _rounding_lines(found: Extraction) -> list[str]:
    """What the rounding of the files is of the difference, where it is any of it."""
    floor = found.floor_in_all()
    if not floor:
        return []
    above = found.kept_above_floor()
    kept = "none lies above it" if math.isnan(above) else f"of the energy above it {above:.4%} is kept"
    return [f"Rounding of the two files is {floor:.4%} of the difference's energy (the floor); {kept}."]


def report(model: ModelPatcher, found: Extraction) -> str:
    """What was extracted, and how much of the difference each layer keeps."""
    low_rank = [key for key, term in found.terms.items() if isinstance(term, LowRank)]
    whole = [key for key in found.terms if key not in low_rank]
    tensors = [value for term in found.terms.values() for value in vars(term).values() if isinstance(value, Tensor)]
    size = sum(tensor.nbytes for tensor in tensors)
    least = min(found.terms, key=found.kept.__getitem__)
    lines = [
        f"Of {found.compared} weights {len(found.terms)} differ: {len(low_rank)} kept at low rank, {len(whole)} whole.",
        f"Kept energy of the difference: {found.kept_in_all():.4%}; least {found.kept[least]:.4%} in {least}.",
        *_rounding_lines(found),
        f"Size: {size / 2**20:.1f} MB beside {model.model_size() / 2**20:.1f} MB of the base.",
    ]
    raw = [key for key in whole if any(True for _ in _owner(model, key)[0].children())]
    if raw:
        lines.append(
            f"Kept exactly, of modules that are no layers: {', '.join(raw)}. With these, guidance runs one pass per "
            "model; without guidance, ComfyUI ignores patches on them."
        )
    if any(is_rounded_when_patched(model, key) for key in found.terms):
        lines.append(
            "The base is quantised: by itself, rl_model is further off than under guidance, since ComfyUI rounds a "
            "quantised weight again once it is patched."
        )
    lines += [f"{key}: rank {found.terms[key].rank}, kept {found.kept[key]:.4%}" for key in low_rank]
    return "\n".join(lines)
