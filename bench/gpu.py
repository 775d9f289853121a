"""Full SD3.5-M and FLUX geometry in bfloat16 on a GPU: all on the card, and with the weights streamed from RAM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch

from . import host, measure
from .geometry import FLUX_FULL, SD3_FULL, Geometry, Pair
from .measure import Timing
from .memory import in_child
from .ways import EXACT_BATCHED, EXACT_SEQUENTIAL, PAPER, PATCHING, PLAIN, Way, budget

GEOMETRIES = (SD3_FULL, FLUX_FULL)
BATCHES = (1, 4)
WAYS = (PLAIN, EXACT_BATCHED, EXACT_SEQUENTIAL, budget("base every 2nd step", refresh_every=2), PATCHING)
CARD_FOR_STREAMING = 6.0
"""GiB left to the host in the streamed modes: a common small card, less than either model in full."""


@dataclass(frozen=True)
class Mode:
    """How the host holds weights: arguments of its command line and what `main.py` does for them."""

    name: str
    streamed: bool
    arguments: dict[str, Any]
    ways: tuple[Way, ...] = WAYS
    prepare: Callable[[SimpleNamespace], None] = lambda started: None


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


MODE_NAMES = ("all on the card", "--lowvram, 6 GiB of the card", "dynamic VRAM, 6 GiB of the card")


def modes() -> tuple[Mode, ...]:
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    reserved = {"reserve_vram": max(0.0, total - CARD_FOR_STREAMING)}
    card, low, dynamic = MODE_NAMES
    return (
        Mode(card, False, {"highvram": True}, (*WAYS, PAPER)),
        Mode(low, True, {"lowvram": True, "disable_dynamic_vram": True, **reserved}),
        Mode(dynamic, True, {"enable_dynamic_vram": True, **reserved}, prepare=use_dynamic_vram),
    )


def is_on_card(mode: str) -> bool:
    return mode == MODE_NAMES[0]


def geometries() -> list[Geometry]:
    """Each model at each batch size, which its name tells."""
    sized = [(geometry.sized(rows), rows) for geometry in GEOMETRIES for rows in BATCHES]
    return [replace(geometry, name=f"{geometry.name}, batch {rows}") for geometry, rows in sized]


def run(rounds: int, steps: int) -> dict[tuple[str, str], dict[str, Timing] | str]:
    """Timings by geometry and mode, each in a process of its own; why not where one fails. Empty without a GPU."""
    if not torch.cuda.is_available():
        return {}
    found = {}
    for geometry in geometries():
        for number, mode in enumerate(modes()):
            try:
                found[geometry.name, mode.name] = in_child(of_mode, geometry, number, rounds, steps)
            except RuntimeError as error:
                found[geometry.name, mode.name] = str(error)
    return found


def of_mode(geometry: Geometry, number: int, rounds: int, steps: int) -> dict[str, Timing]:
    """One geometry in one of `modes()`, with a host started for it."""
    mode = modes()[number]
    started = host.start(**mode.arguments)
    mode.prepare(started)
    return measure.compare(Pair(started, geometry), mode.ways, rounds, steps, cold_rounds=1)
