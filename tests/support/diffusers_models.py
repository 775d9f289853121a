"""Models of every architecture by real diffusers classes, adapters on them by real PEFT, in hardly any memory.

All weights are one constant, expanded without storage: only what an adapter changes is ever real memory, so that even
the architectures whose widths the hosts fix fit. Keys, shapes and merging are diffusers' and PEFT's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .architectures import Tiny

BASE_WEIGHT = 0.25
"""Every base weight; exact in all of float32, bfloat16 and float16."""


def expanded(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Constant weights of these shapes, without storage."""
    return {name: torch.tensor(BASE_WEIGHT).expand(shape) for name, shape in shapes.items()}


def is_base(weight: Tensor) -> bool:
    """Whether a weight is the base's constant; one without storage of its own is."""
    return weight.untyped_storage().nbytes() <= 4 or bool((weight == BASE_WEIGHT).all())


def diffusers_model(tiny: Tiny) -> torch.nn.Module:
    """The diffusers model with constant weights."""
    import diffusers

    with torch.device("meta"):
        model = getattr(diffusers, tiny.cls)(**tiny.config)
    return constant(model)


def constant(model: torch.nn.Module) -> torch.nn.Module:
    """`model` with the base's constant for every weight."""
    weights = expanded({name: tuple(weight.shape) for name, weight in model.state_dict().items()})
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def adaptable(model: torch.nn.Module) -> list[str]:
    """Every module PEFT can put a LoRA on."""
    kinds = (torch.nn.modules.linear.Linear, torch.nn.modules.conv.Conv2d, torch.nn.modules.conv.Conv3d)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, kinds) and getattr(module, "groups", 1) == 1  # it cannot where a kernel has groups
    ]


def one_of_each(names: list[str]) -> list[str]:
    """The first module of each kind, over blocks and layers."""
    kinds: dict[str, str] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\.\d+(?=\..*\.)", ".#", name), name)
    return list(kinds.values())


def with_adapter(model: torch.nn.Module, config: Any, seed: int = 0) -> torch.nn.Module:
    """`model` under a PEFT adapter with random trained values."""
    import peft

    adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if ".lora_" in name or ".hada_" in name or ".lokr_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return adapted.eval().requires_grad_(False)


def merged(adapted: torch.nn.Module) -> dict[str, Tensor]:
    """PEFT's own merge, with memory for the changed weights only."""
    return adapted.merge_and_unload(safe_merge=True).state_dict()


def in_diffusers_layout(tiny: Tiny, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' conversion of an original checkpoint."""
    from diffusers.loaders import single_file_utils

    convert = getattr(single_file_utils, tiny.to_diffusers)
    if tiny.prefix != "unet":
        return convert(dict(weights))
    return convert(
        {f"model.diffusion_model.{name}": weight for name, weight in weights.items()},
        {"layers_per_block": 2} | tiny.config,
    )
