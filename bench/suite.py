"""All measurements in one run, in the order that keeps each from disturbing the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from . import budgets, host, measure, memory, profiles, sweeps
from .geometry import FLUX_LIKE, SD3_LIKE, SMALL, Geometry, demo_geometries
from .host import say
from .measure import Timing
from .memory import Memory
from .pair import Pair
from .profiles import Profile
from .ways import COPIES, EXACT_BATCHED, EXACT_SEQUENTIAL, PAPER, PATCHING, PLAIN, RIVALS, WAYS, Way

REMEMBERED = (PLAIN, EXACT_BATCHED, PAPER, PATCHING, COPIES)
PROFILED = (PLAIN, EXACT_BATCHED, EXACT_SEQUENTIAL, PAPER, PATCHING)
STEPS = 13
"""After the first step, 12 are a whole number of the budgets' periods."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    large: Sequence[Geometry]
    rounds: int
    rounds_of_large: int
    sides: Sequence[int]
    batches: Sequence[int]
    scales: Sequence[float]
    seeds: int
    imports: int
    profiled: Sequence[Way]
    remembered: Sequence[Way]


FULL = Plan(
    large=(SD3_LIKE, FLUX_LIKE),
    rounds=5,
    rounds_of_large=3,
    sides=(8, 16, 32),
    batches=(1, 2, 4),
    scales=(2.0, 4.0),
    seeds=80,
    imports=3,
    profiled=PROFILED,
    remembered=REMEMBERED,
)
QUICK = Plan(
    large=(),
    rounds=1,
    rounds_of_large=0,
    sides=(8, 16),
    batches=(1, 2),
    scales=(2.0,),
    seeds=1,
    imports=1,
    profiled=(PLAIN, EXACT_BATCHED),
    remembered=(PLAIN, EXACT_BATCHED, PAPER),
)


@dataclass
class Compared:
    """What was measured of one geometry, by the name of the way."""

    timings: dict[str, Timing]
    profiles: dict[str, Profile]
    memory: dict[str, Memory]
    attach: tuple[float, float]


@dataclass
class Results:
    peak_flops: float = 0.0
    imports: list[float] = field(default_factory=list)
    compared: dict[str, Compared] = field(default_factory=dict)
    sweeps: list[sweeps.Sweep] = field(default_factory=list)
    budgets: dict[float, dict[str, budgets.Errors]] = field(default_factory=dict)


def run(plan: Plan) -> Iterator[Results]:
    """The results so far, after each part: a run that is cut short leaves what it measured."""
    started = host.start()
    demo = demo_geometries()
    results = Results(peak_flops=profiles.peak_flops())

    def compare(geometry: Geometry, ways: Sequence[Way], rounds: int, steps: int) -> None:
        say(f"time and memory of each way: {geometry.name}")
        results.compared[geometry.name] = compared(
            plan, Pair(started, geometry), ways, rounds, steps, results.peak_flops
        )

    compare((demo or [SMALL])[0], WAYS, plan.rounds, STEPS)
    yield results
    say("importing the pack")
    results.imports = host.import_seconds(plan.imports)
    say("errors of the budgets")
    results.budgets = budgets.run([Pair(started, geometry) for geometry in demo], plan.scales, plan.seeds)
    yield results
    for geometry in plan.large:
        compare(geometry, RIVALS, plan.rounds_of_large, steps=4)
        yield results
    say("cost by resolution and batch")
    results.sweeps = sweeps.run(Pair(started, SMALL), plan.sides, plan.batches, rounds=1)
    yield results


def compared(plan: Plan, pair: Pair, ways: Sequence[Way], rounds: int, steps: int, peak: float) -> Compared:
    timings = measure.compare(
        pair, (PLAIN, *(way for way in ways if way is not PLAIN)), rounds, steps, cold_rounds=1 if rounds < 5 else 2
    )
    profiled = profiles.of_ways(pair, plan.profiled, peak)
    return Compared(timings, profiled, memory.of_ways(pair.geometry, plan.remembered), profiles.attach_seconds(pair))
