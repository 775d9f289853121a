"""Where the time of a step goes, and how far it is from what the arithmetic alone would take."""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from .measure import now, timed
from .pair import Job, Pair
from .ways import Sample, Way

KINDS = {
    "matrix products": ("linear", "matmul", "bmm", "baddbmm", "addmm", "mm", "conv", "einsum", "gemm"),
    "attention": ("scaled_dot_product", "_scaled_dot_product", "flash", "fmha"),
}
"""Beginnings of the names of operators (of parts of kernels' names on a GPU)."""
REST = "elementwise, norms, copies"
PYTHON = "Python and dispatch"


@dataclass(frozen=True)
class Profile:
    """One step: its arithmetic, the seconds that takes at peak, the seconds of operators by kind, and their calls."""

    flops: float
    limit: float
    seconds: dict[str, float]
    calls: float


def peak_flops(side: int = 1024, times: int = 7) -> float:
    """The fastest float32 (bfloat16 on a GPU) matrix product seen, in operations a second."""
    on_gpu = torch.cuda.is_available()
    side = side * 8 if on_gpu else side
    a = torch.randn(side, side, device="cuda", dtype=torch.bfloat16) if on_gpu else torch.randn(side, side)
    best = float("inf")
    for _ in range(times):
        started = now()
        a @ a
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, now() - started)
    return 2 * side**3 / best


def of_ways(pair: Pair, ways: Sequence[Way], peak: float, steps: int = 2) -> dict[str, Profile]:
    """By name; `peak` in operations a second."""
    return {way.name: _of_way(pair, way, peak, steps) for way in ways}


def _of_way(pair: Pair, way: Way, peak: float, steps: int) -> Profile:
    """A step of a warm run: `steps + 1` steps less a run of one, which takes off what surrounds them."""
    sample = way.build(pair)
    timed(sample, Job(1))
    operators = _kernels if torch.cuda.is_available() else _functions
    (long, long_calls), (short, short_calls) = (operators(sample, Job(n)) for n in (steps + 1, 1))
    flops = _flops(sample, Job(2)) - _flops(sample, Job(1))
    seconds = {kind: (long[kind] - short[kind]) / steps for kind in long}
    return Profile(flops, flops / peak, seconds, (long_calls - short_calls) / steps)


def _flops(sample: Sample, job: Job) -> float:
    """Floating-point operations of the matrix products of a run."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        sample(job, _nothing)
    return float(counter.get_total_flops())


def _functions(sample: Sample, job: Job) -> tuple[dict[str, float], int]:
    """Processor seconds inside torch's compiled functions by kind, and their calls."""
    recorder = cProfile.Profile(time.process_time)
    with torch.inference_mode():
        recorder.runcall(sample, job, _nothing)
    compiled = [
        (name, calls, seconds)
        for (file, _, name), (_, calls, seconds, _, _) in pstats.Stats(recorder).stats.items()
        if file == "~" and any(owner in name for owner in ("torch", "Tensor", "built-in function linear", "_nn."))
    ]
    return _by_kind([(_bare(name), seconds) for name, _, seconds in compiled]), sum(calls for _, calls, _ in compiled)


def _bare(name: str) -> str:
    """`linear` of `<built-in method torch._C._nn.linear>` and of `<method 'linear' of ...>`."""
    return name.split("'")[1] if "'" in name else name.rstrip(">").split()[-1].split(".")[-1]


def _kernels(sample: Sample, job: Job) -> tuple[dict[str, float], int]:
    """Seconds of the GPU's kernels by kind, and their launches."""
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        sample(job, _nothing)
        torch.cuda.synchronize()
    kernels = [event for event in recorded.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]
    found = _by_kind([(event.key, event.self_device_time_total / 1e6) for event in kernels])
    return found, sum(event.count for event in kernels)


def _by_kind(seconds: Sequence[tuple[str, float]]) -> dict[str, float]:
    found = dict.fromkeys([*KINDS, REST], 0.0)
    for name, own in seconds:
        found[_kind(name)] += own
    return found


def _kind(operator: str) -> str:
    holds = operator.__contains__ if torch.cuda.is_available() else operator.startswith
    return next((kind for kind, names in KINDS.items() if any(holds(name) for name in names)), REST)


def _nothing() -> None:
    pass


def attach_seconds(pair: Pair, times: int = 50) -> tuple[float, float]:
    """Seconds to make a run's state, and to attach and detach the terms around one model call."""
    rl = pair.rl()
    source = pair.host.module("nodes.host.models.relation").relate(pair.base, rl)
    passes = pair.host.module("nodes.host.run.passes").Passes
    assignment = pair.host.module("rlg_core.rows").Assignment
    started = now()
    for _ in range(times):
        made = passes(pair.base, {1: source})
    setup = (now() - started) / times
    started = now()
    for _ in range(times):
        with made.terms.attached([assignment(1, 2, 4)], 4):
            pass
    return setup, (now() - started) / times
