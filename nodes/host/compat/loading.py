"""How hosts load files: what they note of them, what they only log, and layers that are filled one by one."""

from __future__ import annotations

import ast
import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ....rlg_core.errors import WeightError
from .names import UNUSED_WEIGHTS, WEIGHT_SCALES, is_quantisation_key

_QUANTISED_CONFIGS = ("quant_config", "layer_quant_config", "scaled_fp8")
"""Where the config of a quantised model says so: 0.30 has the first, 0.3.75 the others."""


def is_quantised(config: Any) -> bool:
    """Whether the host found quantised layers in a file when it made this config of it."""
    return any(inspect.getattr_static(config, name, None) for name in _QUANTISED_CONFIGS)


def held_in_layers(tensors: dict[str, Tensor], metadata: dict[str, str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header with quantised layers described as this host's layers read them (0.30 renames older files)."""
    convert = getattr(comfy.utils, "convert_old_quants", None)
    return (tensors, metadata) if convert is None else convert(tensors, "", metadata=metadata)


@contextmanager
def filled(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> Iterator[None]:
    """Inside it, `module` holds `tensors`, loaded by its own method; their names are the module's after `prefix`.

    A scale that the file does not give is 1. Layers made for 8 bits round what the file holds at a higher precision
    (0.3.75).
    """
    scales = (name for name in module._parameters if name.endswith(WEIGHT_SCALES))
    tensors = {**{prefix + name: torch.ones(()) for name in scales}, **tensors}
    narrow = {
        prefix + name: own.dtype for name, own in module._parameters.items() if own is not None and _is_8_bit(own)
    }
    tensors = {name: value.to(narrow.get(name, value.dtype)) for name, value in tensors.items()}
    before = dict(module._parameters), dict(module._buffers)
    made = getattr(module, "factory_kwargs", {})  # 0.30's and 0.3.75's quantised layers move weights to that device
    device, errors = made.get("device"), []
    try:
        if made:
            made["device"] = torch.device("cpu")
        module._load_from_state_dict(tensors, prefix, {"assign_to_params_buffers": True}, False, [], [], errors)
        if errors:
            raise WeightError(f"{prefix}: {'; '.join(errors)}")
        yield
    finally:
        if made:
            made["device"] = device
        module._parameters.clear(), module._buffers.clear()
        module._parameters.update(before[0]), module._buffers.update(before[1])


def _is_8_bit(weight: Tensor) -> bool:
    return weight.dtype.is_floating_point and weight.dtype.itemsize == 1


def source_file(model: ModelPatcher) -> Path | None:
    """The file that `model` was loaded from; None if it is not known. Stock loaders note it since 0.30."""
    _, arguments, *_ = getattr(model, "cached_patcher_init", None) or (None, ())
    return Path(arguments[0]) if arguments and isinstance(arguments[0], str) else None


def is_streamed(model: ModelPatcher) -> bool:
    """Whether the host leaves weights in their files (dynamic VRAM, since 0.30)."""
    return getattr(model, "is_dynamic", bool)()


def without_dynamic(wanted: bool) -> dict[str, bool]:
    """The option of model loaders that switches dynamic VRAM off; 0.3.75 has neither."""
    return {"disable_dynamic": True} if wanted else {}


_MISSING = {"unet": "unet missing:", "clip": "clip missing:", "vae": "Missing VAE keys"}
_UNEXPECTED = "unet unexpected:"


class MissingWeights(logging.Handler):
    """Collects what the host only logs: weights it did not find, and scales of quantised weights it does not know.

    Where a weight is missing it goes on with whatever was in memory, and without its scale a weight is another one.
    Some may be missing: an absent scale of a quantised file is 1, and some weights are never used.
    """

    def __init__(self, part: str = "unet") -> None:
        super().__init__(logging.WARNING)
        self.beginning = _MISSING[part]
        self.names: list[str] = []
        self.unknown_scales: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if said.startswith(self.beginning):
            names = _names(said, self.beginning)
            self.names += [name for name in names if not is_quantisation_key(name) and name not in UNUSED_WEIGHTS]
        if said.startswith(_UNEXPECTED):
            self.unknown_scales += [name for name in _names(said, _UNEXPECTED) if name.endswith(WEIGHT_SCALES)]


def _names(said: str, before: str) -> list[str]:
    return ast.literal_eval(said.removeprefix(before).strip())
