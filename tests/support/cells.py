"""What loads: every architecture in every format of adapter files, declared once.

The host tests load every cell; `table` writes docs/SUPPORT.md from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .architectures import ARCHITECTURES, UNETS

FORMATS = {
    "PEFT folder": "`adapter_model.safetensors` beside `adapter_config.json`, as PEFT saves an adapter",
    "PEFT state dict": "the state dict of a PEFT model, with the adapter's name in its keys",
    "diffusers": "diffusers' names (`transformer.` or `unet.`), alpha in the file's header",
    "GRPO trainers": "diffusers' names, alpha in a `lora_config.json` beside the file",
    "old diffusers": "attention processors of the UNets, as diffusers saved them before PEFT",
    "kohya": "`lora_unet_` and diffusers' names with underscores, an alpha per module",
    "ComfyUI": "the host's own names, as `diffusion_model.` or as `lora_unet_`",
    "LyCORIS": "`lycoris_` and diffusers' names with underscores",
    "LoHa": "a PEFT folder of a LoHa adapter",
    "LoKr": "a PEFT folder of a LoKr adapter",
    "bare names": "diffusers' names without a prefix; alpha is given on the node",
}
"""The table's columns, and what each of them is."""

EXISTS_FOR = {"old diffusers": UNETS}
"""The architectures of the formats that do not exist for all of them."""

EVERY = "every format"
NOT_ON: dict[tuple[str, str], dict[str, str]] = {
    (name, EVERY): {"0.3.75": "it has no such model"}
    for name in ("Anima", "CogVideoX", "Kandinsky 5", "LTX-2", "LongCat-Image")
}
"""(architecture, format or `EVERY`) -> {release of ComfyUI: why the cell cannot run on it}."""


@dataclass(frozen=True)
class Cell:
    """One architecture in one format; `not_on` has the releases of ComfyUI that cannot run it, each with the reason."""

    architecture: str
    format: str
    not_on: Mapping[str, str]


def declared(not_on: Mapping[tuple[str, str], Mapping[str, str]]) -> tuple[Cell, ...]:
    """All cells, those of one architecture in a row."""
    return tuple(
        Cell(name, form, {**not_on.get((name, EVERY), {}), **not_on.get((name, form), {})})
        for name in sorted(ARCHITECTURES)
        for form in FORMATS
        if name in EXISTS_FOR.get(form, ARCHITECTURES)
    )


CELLS = declared(NOT_ON)
