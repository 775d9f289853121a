"""What hosts call parameters, and which of them they make and never use."""

from __future__ import annotations

from torch import nn

WEIGHT_NAMES = ("weight", "scale")
"""What hosts call a module's main parameter: FLUX's norms have `scale` on 0.3.75 and `weight` on 0.30."""

UNUSED_WEIGHTS = ("norm_final.weight", "y_embedder.y_embedding")
"""Weights that a host makes and never uses (Z-Image and Lumina on 0.3.75, PixArt on both): files come without them."""

ONE_SIDED_VAE = ("encoder.", "quant_conv.")
"""A VAE without these still decodes."""

UNUSED_IN_CLIP = ("logit_scale", "text_projection.weight", "position_ids")
"""How weights of text encoders end that no conditioning uses, or that a host can do without."""

WEIGHT_SCALES = ("scale_weight", "weight_scale", "weight_scale_2")  # 0.3.75 has the first, 0.30 the others
QUANTISATION = (*WEIGHT_SCALES, "scaled_fp8", "scale_input", "input_scale", "pre_quant_scale", "comfy_quant")

FP8_MARKER = "scaled_fp8"
"""The tensor by which older fp8 files say what they are, by its dtype alone: its values are whatever was in memory."""


def is_quantisation_key(name: str) -> bool:
    """Whether `name` is something that a host keeps beside a quantised weight, and not a weight itself."""
    return name.endswith(QUANTISATION)


def is_norm(module: nn.Module) -> bool:
    """Whether `module` is affine in its parameters, row by row. Hosts define their own norms, under such names."""
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())
