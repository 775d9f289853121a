"""The bars that the pack sets itself, against what was measured."""

from __future__ import annotations

from collections.abc import Iterator

from .budgets import Errors
from .measure import Timing, quartiles
from .suite import Compared, Results
from .ways import EXACT_BATCHED, PAPER, PATCHING, PLAIN

NOT_MEASURED = "not measured"
STEPS_OF_A_RUN = 20
NOISE = 1.02
"""Two ways within two percent of each other are taken as equal."""
Row = tuple[str, str, str]


def of(results: Results) -> Iterator[Row]:
    """Each bar as (bar, measured, yes / no / not measured)."""
    first, *large = results.compared.items()
    for name, compared in large:
        ratio = quartiles(compared.timings[EXACT_BATCHED.name].ratios(compared.timings[PLAIN.name], "step"))[0]
        yield row(f"exact RLG at most 2.1 x plain CFG, {name}", f"{ratio:.2f} x", ratio <= 2.1)
    for rival in (PAPER, PATCHING):
        for name, compared in large:
            yield against(compared, rival.name, f"not behind {rival.name}, {name}", NOISE)
        yield against(first[1], rival.name, f"clearly ahead of {rival.name} where launches count, {first[0]}", 0.9)
    for name, compared in results.compared.items():
        ratio = compared.memory[EXACT_BATCHED.name].weights / compared.memory[PLAIN.name].weights
        yield row(f"weights at most 1.05 x one model, {name}", f"{ratio:.3f} x", ratio <= 1.05)
    yield from budget_bars(results.budgets.get(2.0, {}))
    for name, compared in results.compared.items():
        share = attaching(compared)
        yield row(f"attaching and detaching under 1 % of a run, {name}", f"{100 * share:.2f} %", share < 0.01)
    if results.imports:
        seconds = quartiles(results.imports)[0]
        yield row("importing the pack under 0.15 s", f"{seconds:.3f} s", seconds < 0.15)


def row(bar: str, measured: str, holds: bool) -> Row:
    return bar, measured, "yes" if holds else "no"


def against(compared: Compared, rival: str, bar: str, most: float) -> Row:
    """How long exact RLG takes over what a rival takes, round by round."""
    ours, theirs = compared.timings[EXACT_BATCHED.name], compared.timings[rival]
    ratio = quartiles([a / b for a, b in zip(ours.step, theirs.step)])[0]
    return row(bar, f"{ratio:.2f} of its time", ratio <= most)


def attaching(compared: Compared) -> float:
    """The share of a run of 20 steps that goes into making, attaching and detaching RLG's terms."""
    setup, attach = compared.attach
    step = quartiles(compared.timings[EXACT_BATCHED.name].step)[0]
    return (setup + attach * STEPS_OF_A_RUN) / (step * STEPS_OF_A_RUN)


def ratio_to_plain(timings: dict[str, Timing]) -> float:
    return quartiles(timings[EXACT_BATCHED.name].ratios(timings[PLAIN.name], "step"))[0]


def budget_bars(modes: dict[str, Errors]) -> Iterator[Row]:
    """Whether some mode at w = 2 stays within a cost, a median error and a 90th percentile."""
    for cost, median, tail in ((1.5, 0.003, 0.01), (1.3, 0.01, 0.04)):
        bar = (
            f"a budget at most {cost} x with under {100 * median:g} % median and {100 * tail:g} % 90th percentile "
            "error at w = 2"
        )
        measured = {mode: e for mode, e in modes.items() if e.error and e.median_cost <= cost}
        if not measured:
            yield bar, NOT_MEASURED, NOT_MEASURED
            continue
        mode, e = min(measured.items(), key=lambda item: max(item[1].median / median, item[1].tail / tail))
        text = f"{mode}: {e.median_cost:.2f} x, {100 * e.median:.2f} %, {100 * e.tail:.2f} %"
        yield row(bar, text, e.median < median and e.tail < tail)
