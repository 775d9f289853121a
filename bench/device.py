"""What a step asks of a device, counted on one that is made in Python: no clock, so that no GPU is needed for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import torch

from support import accelerator
from support.host import DEVICE

from . import host, report
from .geometry import FLUX_LIKE, SD3_LIKE, Geometry
from .memory import in_child
from .pair import Job, Pair
from .ways import PAPER, PLAIN, RIVALS, Sample, Way

TITLE = "What a step asks of a device"
STEPS = 3
HOW = f"""Counted, not timed: the host runs on a device made in Python (`tests/support/accelerator.py`) that holds its
tensors apart as a GPU does, and counts what costs there. Per step of a warm run, {STEPS} steps of it: *launches* of
operations, *waits* of the processor for a result, and bytes of weights copied to the device while none of them fit on
it (*streamed*, as with `--novram`), in copies of the model; *held* is what the device holds between runs when all fits,
in copies of the model. A launch of RLG's has twice the rows. The paper's loop has no streaming."""


@dataclass(frozen=True)
class Asked:
    """Of one way: launches and waits per step; copies of the model's weights held, and uploaded per step (or None)."""

    launches: float
    waits: float
    held: float
    streamed: float | None


def run() -> str:
    return "\n\n".join([HOW, *map(_section, (SD3_LIKE, FLUX_LIKE))])


def _section(geometry: Geometry) -> str:
    asked = in_child(on_the_device, geometry, starts_anew=True)
    plain = asked[PLAIN.name]
    head = ("way", "launches (x plain)", "waits", "held", "streamed")
    rows = [
        (
            name,
            f"{own.launches:.0f} ({own.launches / plain.launches:.2f})",
            f"{own.waits:.0f}",
            f"{own.held:.2f}",
            "-" if own.streamed is None else f"{own.streamed:.2f}",
        )
        for name, own in asked.items()
    ]
    return f"### {geometry.name}\n\n{report.machine()}\n\n{report.table(head, rows)}"


def on_the_device(geometry: Geometry) -> dict[str, Asked]:
    """What all ways ask, by name; for a process of its own, whose host is started on the device."""
    os.environ[DEVICE] = accelerator.NAME
    return of_ways(host.start(), geometry, (PLAIN, *RIVALS))


def of_ways(started: SimpleNamespace, geometry: Geometry, ways: Sequence[Way]) -> dict[str, Asked]:
    with torch.inference_mode():
        return {way.name: _of_way(Pair(started, geometry), way) for way in ways}


def _of_way(pair: Pair, way: Way) -> Asked:
    management, memory = pair.host.comfy.model_management, accelerator.memories[0]
    management.unload_all_models()
    memory.capacity = accelerator.CAPACITY
    before, size, sample = memory.used(), pair.base.model_size(), way.build(pair)
    counts = _per_step(sample)
    asked = Asked(counts["launches"], counts["waits"], (memory.used() - before) / size, None)
    if way is PAPER:
        return asked
    management.unload_all_models()
    memory.capacity = int(management.minimum_inference_memory())
    return replace(asked, streamed=_per_step(sample)["uploaded"] / size)


def _per_step(sample: Sample) -> dict[str, float]:
    """What the device counts in a step of a warm run: a longer run less one of a step."""
    sample(Job(1), _nothing)
    long, short = (_counted(sample, Job(steps)) for steps in (STEPS + 1, 1))
    return {name: (long[name] - short[name]) / STEPS for name in ("launches", "waits", "uploaded")}


def _counted(sample: Sample, job: Job) -> dict[str, int]:
    accelerator.counts.clear()
    sample(job, _nothing)
    return dict.fromkeys(("launches", "waits", "uploaded"), 0) | accelerator.counts


def _nothing() -> None:
    pass
