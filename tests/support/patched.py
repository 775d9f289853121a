"""The weights that a MODEL of the host computes with, its patches applied by the host's own arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def patched_weight(host: SimpleNamespace, model: Any, key: str) -> Tensor:
    """One weight, in float32."""
    weight = host.comfy.utils.get_attr(model.model, key).detach().to(torch.float32, copy=True)
    return host.comfy.lora.calculate_weight(model.patches.get(key, []), weight, key)


def patched_weights(host: SimpleNamespace, model: Any) -> dict[str, Tensor]:
    """The weights that have patches on them."""
    return {key: patched_weight(host, model, key) for key in model.patches}


def all_weights(host: SimpleNamespace, model: Any) -> dict[str, Tensor]:
    """Every weight and buffer, those with patches on them patched."""
    return dict(model.model.state_dict()) | patched_weights(host, model)


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-5) -> None:
    """Fails with the name of the weight that is furthest off."""
    assert found.keys() == expected.keys()
    worst = max((float((found[key] - expected[key]).abs().max()), key) for key in expected)
    assert worst[0] < tolerance, worst
