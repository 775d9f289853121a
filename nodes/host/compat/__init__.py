"""Every difference between releases of ComfyUI that matters here, and every reading of its internals.

One address for each, with the releases concerned and the reason. Nothing else in the pack asks which host it runs on.
"""

from .injections import Injections, injected_adapters
from .loading import MissingWeights, filled, held_in_layers, is_quantised, is_streamed, source_file, without_dynamic
from .memory import free_memory, is_out_of_memory, trim
from .names import FP8_MARKER, ONE_SIDED_VAE, UNUSED_IN_CLIP, UNUSED_WEIGHTS, WEIGHT_NAMES, is_norm, is_quantisation_key
from .runs import (
    CACHES_BY_UUID,
    CASTING,
    CFG_FUNCTIONS,
    COPIED_BY_CONTROL_LORAS,
    READ_AHEAD,
    STATELESS_OPTIONS,
    conds_of_one_row,
    empty_latent_ratios,
    is_answered_by_uuid,
    is_control_lora,
    is_dual_model,
    is_split_over_gpus,
    is_training,
    keeps_its_own_caches,
    prepares_prompts,
    reads_unconditional,
    require_one_tensor,
    weights_in_memory,
)
from .schemas import known_fields
from .weights import (
    compute_dtype,
    is_rounded_when_patched,
    refuse_opaque_layers,
    stored_tensors,
    unpatched_weight,
    weight_shape,
    weight_shapes,
)

__all__ = [
    "CACHES_BY_UUID",
    "CASTING",
    "CFG_FUNCTIONS",
    "COPIED_BY_CONTROL_LORAS",
    "FP8_MARKER",
    "ONE_SIDED_VAE",
    "READ_AHEAD",
    "STATELESS_OPTIONS",
    "UNUSED_IN_CLIP",
    "UNUSED_WEIGHTS",
    "WEIGHT_NAMES",
    "Injections",
    "MissingWeights",
    "compute_dtype",
    "conds_of_one_row",
    "empty_latent_ratios",
    "filled",
    "free_memory",
    "held_in_layers",
    "injected_adapters",
    "is_answered_by_uuid",
    "is_control_lora",
    "is_dual_model",
    "is_norm",
    "is_out_of_memory",
    "is_quantisation_key",
    "is_quantised",
    "is_rounded_when_patched",
    "is_split_over_gpus",
    "is_streamed",
    "is_training",
    "keeps_its_own_caches",
    "known_fields",
    "prepares_prompts",
    "reads_unconditional",
    "refuse_opaque_layers",
    "require_one_tensor",
    "source_file",
    "stored_tensors",
    "trim",
    "unpatched_weight",
    "weight_shape",
    "weight_shapes",
    "weights_in_memory",
    "without_dynamic",
]
