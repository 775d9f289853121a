"""Time, model evaluations and results of the ways, interleaved so that what else the machine does hits all alike."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor, nn

from .pair import Job, Pair
from .ways import Sample, Way

SCALES = (2.0, 1.5, 1.8)
"""The scale changes with every run."""


@dataclass
class Timing:
    """Seconds of one way, a value a round; `rows` of all model calls of a run, and how far its result is from exact."""

    step: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    changed: list[float] = field(default_factory=list)
    rows: float = 0.0
    error: float = 0.0

    def ratios(self, floor: Timing, what: str) -> list[float]:
        """`what` of every round over the floor's time per step in the same round."""
        return [own / base for own, base in zip(getattr(self, what), floor.step)]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, first and third quartile."""
    ordered = sorted(values)
    return median(ordered), ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]


def now() -> float:
    """Seconds: this process's processor time on a CPU, which others disturb least; wall-clock time on a GPU."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


class Clock:
    """The seconds between the steps of a run."""

    def __init__(self) -> None:
        self.marks = [now()]

    def step(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append(now())

    def seconds(self) -> list[float]:
        return [after - before for before, after in zip(self.marks, self.marks[1:])]


def timed(sample: Sample, job: Job) -> tuple[Tensor, list[float]]:
    """The final latent and the seconds of each step, the first with all that goes before it."""
    clock = Clock()
    with torch.inference_mode():
        latent = sample(job, clock.step)
    return latent, clock.seconds()


@contextmanager
def counted_rows(networks: Sequence[nn.Module]) -> Iterator[list[int]]:
    """The batch rows of every call of any of `networks` while the context lasts."""
    rows: list[int] = []

    def count(module: nn.Module, args: tuple, kwargs: dict) -> None:
        rows.append((args[0] if args else kwargs["hidden_states"]).shape[0])

    hooks = [network.register_forward_pre_hook(count, with_kwargs=True) for network in networks]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


def compare(pair: Pair, ways: Sequence[Way], rounds: int, steps: int, cold_rounds: int = 2) -> dict[str, Timing]:
    """Measures `ways`, PLAIN first among them, in rounds A B C A B C ...: a cold run of one step in the first
    `cold_rounds`, and a warm run of `steps` steps in each, at a scale of its own."""
    timings = {way.name: Timing() for way in ways}
    samples: dict[str, Sample] = {}
    for turn in range(rounds):
        for way in ways:
            if turn < cold_rounds:
                pair.host.comfy.model_management.unload_all_models()
                samples[way.name] = way.build(pair)
                timings[way.name].first += timed(samples[way.name], Job(1, SCALES[-1]))[1]
            _warm(samples[way.name], Job(steps, SCALES[turn % len(SCALES)]), timings[way.name])
    _count_and_check(pair, ways, samples, timings, steps)
    return timings


def _warm(sample: Sample, job: Job, timing: Timing) -> None:
    changed, *following = timed(sample, job)[1]
    timing.changed.append(changed)
    timing.step.append(sum(following) / len(following))


def _count_and_check(
    pair: Pair, ways: Sequence[Way], samples: dict[str, Sample], timings: dict[str, Timing], steps: int
) -> None:
    """Rows a step, and the distance of the result from the exact one, relative to it; in a run of its own.

    Raises `RuntimeError` where a way that claims to be exact is not: it would be another computation's time.
    """
    latents = {}
    for way in ways:
        with counted_rows(pair.networks()) as rows:
            latents[way.name] = timed(samples[way.name], Job(steps))[0]
        timings[way.name].rows = sum(rows) / steps / pair.geometry.latent[0]
    exact = next(latents[way.name] for way in ways if way.exact)
    allowed = 1e-3 if pair.geometry.dtype == torch.float32 else 0.1
    for way in ways:
        timings[way.name].error = relative_error(latents[way.name], exact)
        if way.exact and timings[way.name].error > allowed:
            raise RuntimeError(
                f"{way.name} is {timings[way.name].error:.1e} off the exact result, expected {allowed:.0e}."
            )


def relative_error(latent: Tensor, exact: Tensor) -> float:
    return float((latent - exact).norm() / exact.norm())


def step_seconds(pair: Pair, ways: Sequence[Way], rounds: int, steps: int) -> dict[str, float]:
    """The median seconds of a warm step of each way."""
    samples = {way.name: way.build(pair) for way in ways}
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for turn in range(rounds + 1):
        for name, sample in samples.items():
            steps_taken = timed(sample, Job(steps + 1))[1][1:]
            if turn:  # the first round loads and verifies
                seconds[name] += steps_taken
    return {name: median(values) for name, values in seconds.items()}
