"""The architectures as models of the host, with the weights of `diffusers_models` in the host's layout."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from . import diffusers_models
from .architectures import ARCHITECTURES, BY_RULES, SAME, Tiny
from .diffusers_models import constant, expanded, is_base
from .patched import patched_weights

RANK, ALPHA = 2, 6.0
PREFIX = "diffusion_model."
NEVER_LOADED = {"norm_final.weight", "y_embedder.y_embedding"}
"""Weights that the host makes and no checkpoint has."""


class Case:
    """One architecture: the host's model, the diffusers model, and what PEFT saves of an adapter on every module."""

    def __init__(self, host: SimpleNamespace, name: str):
        self.name, self.tiny = name, ARCHITECTURES[name]
        self.plain = diffusers_models.diffusers_model(self.tiny) if self.tiny.cls else constant(host_network(self.tiny))
        self.model = without_storage(host_weights(self.tiny, self.plain), self.tiny.shrunk)
        self.names = host.module("nodes.host.models.adapters").name_map(self.model)

    @cached_property
    def lora(self) -> dict[str, Tensor]:
        import peft

        config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=diffusers_models.adaptable(self.plain))
        adapted = diffusers_models.with_adapter(self.plain, config)
        weights = {key: value.contiguous() for key, value in peft.get_peft_model_state_dict(adapted).items()}
        self.plain = adapted.unload()
        return weights


def in_host_layout(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A diffusers checkpoint as the host converts it on load."""
    import comfy.model_detection
    import comfy.utils

    unet = comfy.model_detection.unet_config_from_diffusers_unet(weights)
    if unet is not None:
        names = comfy.utils.unet_to_diffusers(unet)
        return {names[name]: weight for name, weight in weights.items()}
    if comfy.model_detection.detect_unet_config(weights, "") is not None:
        return weights
    # the conversion swaps the halves of some norms' weights in place
    return comfy.model_detection.convert_diffusers_mmdit(
        {
            name: weight.contiguous() if "norm" in name and weight.numel() < 3e7 else weight
            for name, weight in weights.items()
        },
        "",
    )


def host_weights(tiny: Tiny, diffusers_model: torch.nn.Module) -> dict[str, Tensor]:
    """A checkpoint in the host's layout: converted by the host where it does that, else made of the host's class."""
    if tiny.to_diffusers == SAME:
        return dict(diffusers_model.state_dict())
    if tiny.host is None:
        return in_host_layout(dict(diffusers_model.state_dict()))
    return expanded({name: tuple(weight.shape) for name, weight in host_network(tiny).state_dict().items()})


def host_network(tiny: Tiny, device: str = "meta", smaller: Mapping[str, Any] | None = None) -> torch.nn.Module:
    """The host's class at this geometry, or a `smaller` one; its weights are still to come."""
    import comfy.ops

    module, _, cls = tiny.host[0].rpartition(".")
    defined = import_module(f"comfy.ldm.{module}")
    options = known_options(defined, {**tiny.host[1], **(smaller or {})})
    operations = comfy.ops.disable_weight_init
    return getattr(defined, cls)(**options, operations=operations, device=device, dtype=torch.float32)


def known_options(defined: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a model that this release of the host has: newer models came with new ones."""
    params = [
        value for name, value in vars(defined).items() if name.endswith("Params") and dataclasses.is_dataclass(value)
    ]
    known = {field.name for value in params for field in dataclasses.fields(value)} | {"image_model"}
    return {name: value for name, value in options.items() if not params or name in known}


def without_storage(weights: dict[str, Tensor], shrunk: Mapping[str, Any], device: str = "meta") -> Any:
    """The host's model for a checkpoint, as its loader finds and builds it, on the checkpoint's own tensors."""
    import comfy.model_detection
    import comfy.model_patcher

    config = comfy.model_detection.model_config_from_unet(weights, "")
    assert config is not None, "the host does not recognise the checkpoint"
    config.unet_config |= shrunk
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(weights, "", device=device)
    missing, unexpected = model.diffusion_model.load_state_dict(weights, strict=False, assign=True)
    assert not unexpected and set(missing) <= NEVER_LOADED, (missing, unexpected)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


HUNYUAN = (
    ("_attn.qkv.", "_attn_qkv."),
    ("_attn.proj.", "_attn_proj."),
    ("_mod.lin.", "_mod.linear."),
    (".modulation.lin.", ".modulation.linear."),
    ("mlp.0.", "mlp.fc1."),
    ("mlp.2.", "mlp.fc2."),
    ("_in.in_layer.", "_in.mlp.0."),
    ("_in.out_layer.", "_in.mlp.2."),
    ("vector_in.mlp.0.", "vector_in.in_layer."),
    ("vector_in.mlp.2.", "vector_in.out_layer."),
    ("self_attn.qkv.", "self_attn_qkv."),
    ("self_attn.proj.", "self_attn_proj."),
    ("_attn.norm.query_norm.", "_attn_q_norm."),
    ("_attn.norm.key_norm.", "_attn_k_norm."),
    (".norm.query_norm.", ".q_norm."),
    (".norm.key_norm.", ".k_norm."),
    ("t_embedder.in_layer.", "t_embedder.mlp.0."),
    ("t_embedder.out_layer.", "t_embedder.mlp.2."),
    ("c_embedder.in_layer.", "c_embedder.linear_1."),
    ("c_embedder.out_layer.", "c_embedder.linear_2."),
)
"""HunyuanVideo's host names -> those of its original checkpoints, which diffusers' conversion reads."""


def renamed_hunyuan(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for old, new in HUNYUAN:
        weights = {key.replace(old, new): weight for key, weight in weights.items()}
    return weights


def fused_cascade(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stable Cascade's checkpoints keep query, key and value as one, which the host splits on load."""
    fused = {key: weight for key, weight in weights.items() if re.search(r"\.to_[qkv]\.", key) is None}
    for key in weights:
        if ".to_q." in key:
            parts = [weights[key.replace("to_q", f"to_{part}")] for part in "qkv"]
            fused[key.replace("to_q.", "in_proj_")] = torch.cat(parts)
    return fused


def renamed_chroma(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {re.sub(r"(_norm|norms\.\d+)\.weight$", r"\1.scale", key): weight for key, weight in weights.items()}


ORIGINAL = {"HunyuanVideo": renamed_hunyuan, "Stable Cascade": fused_cascade, "Chroma": renamed_chroma}
"""What makes an original checkpoint, which diffusers' conversion reads, of the host's weights where they differ."""


def assert_merged(host: SimpleNamespace, arch: Case, model: Any, expected: dict[str, Tensor]) -> None:
    """The host's patched weights are PEFT's merged ones, and nothing else changed."""
    found = {key.removeprefix(PREFIX): weight for key, weight in patched_weights(host, model).items()}
    if arch.tiny.to_diffusers is None:
        expected = in_host_layout(expected)
    else:
        found = in_diffusers_layout(arch, dict(host_weights(arch.tiny, arch.plain)) | found)
    changed = [key for key in expected if key in found and not (is_base(expected[key]) and is_base(found[key]))]
    assert changed and all(is_base(weight) for key, weight in expected.items() if key not in found)
    worst = max((float((found[key] - expected[key]).abs().max()), key) for key in changed)
    assert worst[0] < 1e-5, worst


def in_diffusers_layout(arch: Case, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The host's weights as diffusers has them."""
    if arch.tiny.to_diffusers == SAME:
        return weights
    if arch.tiny.to_diffusers == BY_RULES:
        return by_rules(arch, weights)
    return diffusers_models.in_diffusers_layout(arch.tiny, ORIGINAL.get(arch.name, dict)(weights))


def by_rules(arch: Case, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name in arch.plain.state_dict():
        module, _, parameter = name.rpartition(".")
        target = arch.names.find(module, parameter) or arch.names.find(name, "")
        weight = weights[target.key.removeprefix(PREFIX)]
        weight = weight if target.cut is None else weight.narrow(0, *target.cut)
        found[name] = torch.cat(weight.chunk(2)[::-1]) if target.swapped else weight
    return found
