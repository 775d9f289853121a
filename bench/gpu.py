"""Full geometries in bfloat16 on a GPU: all on the card, streamed from RAM, quantised, compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch

from . import forms, host, measure
from .geometry import FLUX_FULL, QWEN_FULL, SD3_FULL, Geometry
from .measure import Timing
from .memory import in_child
from .pair import Pair
from .ways import EXACT_BATCHED, EXACT_SEQUENTIAL, PAPER, PATCHING, PLAIN, Way, budget

BATCHES = (1, 4)
OWN = (PLAIN, EXACT_BATCHED, EXACT_SEQUENTIAL)
WAYS = (*OWN, budget("base every 2nd step", refresh_every=2), PATCHING)
CARD_FOR_STREAMING = 6.0
"""GiB left to the host in the streamed modes: a common small card, less than any of the models in full."""


@dataclass(frozen=True)
class Mode:
    """How the host holds weights: arguments of its command line, and what `main.py` does for them."""

    name: str
    ways: tuple[Way, ...] = WAYS
    streamed: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[SimpleNamespace], None] | None = None
    form: str = forms.PLAIN


def use_dynamic_vram(started: SimpleNamespace) -> None:
    """What the host's `main.py` does at start for dynamic VRAM."""
    import comfy_aimdo.control

    management = started.comfy.model_management
    reserved = int(started.comfy.cli_args.args.reserve_vram * 2**30)
    comfy_aimdo.control.init(simple_vram_headroom=reserved)
    if not comfy_aimdo.control.init_devices((device.index, 0) for device in management.get_all_torch_devices()):
        raise RuntimeError("comfy-aimdo did not start: dynamic VRAM cannot be measured here.")
    patcher = started.comfy.model_patcher
    patcher.CoreModelPatcher = patcher.ModelPatcherDynamic
    started.comfy.memory_management.aimdo_enabled = True


ON_CARD = {"highvram": True}
CARD = Mode("all on the card", arguments=ON_CARD)
CARD_AND_PAPER = replace(CARD, ways=(*WAYS, PAPER))
LOW = Mode("--lowvram, 6 GiB of the card", streamed=True, arguments={"lowvram": True, "disable_dynamic_vram": True})
DYNAMIC = Mode(
    "dynamic VRAM, 6 GiB of the card",
    streamed=True,
    arguments={"enable_dynamic_vram": True},
    prepare=use_dynamic_vram,
)
FORMS = tuple(
    Mode(f"{form}, all on the card", OWN, arguments=ON_CARD, form=form) for form in forms.FORMS if form != forms.PLAIN
)


@dataclass(frozen=True)
class Case:
    """A geometry in a mode."""

    geometry: Geometry
    mode: Mode

    @property
    def name(self) -> str:
        return f"{self.geometry.name}, batch {self.geometry.latent[0]}: {self.mode.name}"


def cases() -> list[Case]:
    """What is measured. The paper's code has no Qwen-Image, and quantised and compiled models run at batch 1."""
    found = [
        Case(geometry.sized(rows), mode)
        for geometry, card in ((SD3_FULL, CARD_AND_PAPER), (FLUX_FULL, CARD_AND_PAPER), (QWEN_FULL, CARD))
        for rows in BATCHES
        for mode in (card, LOW, DYNAMIC)
    ]
    return found + [
        Case(replace(geometry, form=mode.form), mode) for geometry in (SD3_FULL, FLUX_FULL) for mode in FORMS
    ]


def run(case: Case, rounds: int, steps: int) -> dict[str, Timing] | str:
    """The timings of a case, measured in a process of its own; or why there are none."""
    try:
        return in_child(timings, case, rounds, steps, starts_anew=True)
    except RuntimeError as error:
        return str(error)


def timings(case: Case, rounds: int, steps: int) -> dict[str, Timing]:
    """Those of a case, with a host started for it."""
    started = host.start(**case.mode.arguments | reserved(case.mode))
    if case.mode.prepare is not None:
        case.mode.prepare(started)
    with torch.inference_mode():  # as the host loads and samples
        return measure.compare(Pair(started, case.geometry), case.mode.ways, rounds, steps, cold_rounds=1)


def reserved(mode: Mode) -> dict[str, float]:
    """The host's argument for what it must leave of the card, if anything."""
    if not mode.streamed:
        return {}
    return {"reserve_vram": max(0.0, torch.cuda.get_device_properties(0).total_memory / 2**30 - CARD_FOR_STREAMING)}
