"""What a report says about an adapter: its format, its ranks and alphas, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping

from ..algebra import algebra_of, rank_of
from .keys import FIRST_COMPONENT, SECOND_COMPONENT, Key, spellings
from .recipe import Recipe
from .scaling import Modules, bare, labels_of, scale_of


def alphas_of(modules: Modules, recipe: Recipe | None) -> tuple[float, ...]:
    factored = {m: parts for m, parts in modules.items() if (algebra := algebra_of(parts)) and algebra.scaled}
    return tuple(
        sorted(
            {
                scale_of(module, parts, recipe) * (rank_of(parts) or 1)
                if recipe is None or not recipe.rslora
                else recipe.alpha_of(bare(module))
                for module, parts in factored.items()
            }
        )
    )


def alpha_source(modules: Modules, recipe: Recipe | None) -> str:
    factored = [parts for parts in modules.values() if algebra_of(parts)]
    if factored and not any(algebra_of(parts).scaled for parts in factored):
        return f"nowhere: none scales {labels_of(modules)}"
    if recipe is not None:
        return recipe.source + (" (rsLoRA: alpha / sqrt(rank))" if recipe.rslora else "")
    if not factored:
        return "nowhere: full tensors have no alpha"
    with_alpha = sum("alpha" in parts for parts in factored)
    without = len(factored) - with_alpha
    if with_alpha and without:
        return f"the file's .alpha tensors; {without} modules have none, and scale 1 is assumed for them"
    return "the file's .alpha tensors" if with_alpha else "nowhere: no file gives it, so scale 1 is assumed"


FORMATS = (
    ("base_model.model.", "PEFT"),
    ("unet.base_model.model.", "PEFT"),
    ("lora_unet_", "kohya"),
    ("lora_transformer_", "OneTrainer"),
    ("lycoris_", "LyCORIS"),
    ("transformer.", "diffusers"),
    ("transformer_2.", "diffusers"),
    ("unet.", "diffusers"),
    ("diffusion_model.", "ComfyUI"),
)


def format_of(keys: Mapping[str, Key], modules: Modules) -> str:
    """For the report: which tool writes such names, and which algebras the file holds."""
    names = [name for key in keys.values() for name in spellings(key.module)]
    writer = next((label for prefix, label in FORMATS for name in names if name.startswith(prefix)), "bare names")
    if any(key.adapter not in (None, FIRST_COMPONENT, SECOND_COMPONENT) for key in keys.values()):
        writer = "PEFT, raw state dict"
    return f"{writer} ({labels_of(modules)})"
