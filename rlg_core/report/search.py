"""Shows a search for the scale as panels: what was tried, what was fitted to it, and what was chosen."""

from __future__ import annotations

from collections.abc import Sequence

from ..search import CONSTANT, STAGES, Search
from ..trials import Line, Trial
from .plot import Curve, Panel, number


def panels(state: Search) -> list[Panel]:
    """Reward, shift and diversity over constant scales, and reward over the scale of each stage tried."""
    chosen, line = state.choice.stages, state.lines[CONSTANT]
    constant = len(set(chosen.scales)) == 1
    marks = {chosen.scales[0]: f"chosen: {number(chosen.scales[0])}"} if constant else {}
    title = "Reward, mean \u00b1 standard error"
    shown = [
        Panel(_reward_curves(state, line), title, "scale w", "reward", marks),
        Panel(_distance_curves(_first(line)), "Mean distance of pictures", "scale w", "distance", marks),
    ]
    stages = [_fitted(state.lines[name], name) for name in STAGES if name in state.lines]
    if stages:
        title = "Reward by stage; chosen: " + ", ".join(f"{n} {number(s)}" for n, s in zip(STAGES, chosen.scales))
        shown.append(Panel(stages, title, "scale of that stage", "reward"))
    return shown


def _first(line: Line) -> list[tuple[float, Trial]]:
    """The trials from the first noise, by scale."""
    return sorted((pair for pair in line.trials if pair[1].noise == 0), key=lambda pair: pair[0])


def _distance_curves(trials: Sequence[tuple[float, Trial]]) -> list[Curve]:
    scales = [scale for scale, _ in trials]
    shift = Curve(scales, [trial.shift for _, trial in trials], "from the base's (shift)")
    diversity = Curve(scales, [trial.diversity for _, trial in trials], "between a prompt's (diversity)")
    return [shift, diversity] if diversity.points() else [shift]


def _fitted(line: Line, label: str) -> Curve:
    """The fit, at the height of the first noise."""
    scales = line.bounds.scales
    gaps = [trial.reward - line.fitted(scale) for scale, trial in _first(line)]
    height = sum(gaps) / len(gaps)
    return Curve(scales.tolist(), (line.curves[0] + height).tolist(), label, dots=False)


def _reward_curves(state: Search, line: Line) -> list[Curve]:
    """Trials with their errors, the fit, and in another colour what moved too far."""
    trials = _first(line)
    rewards, errors = [trial.reward for _, trial in trials], [trial.error for _, trial in trials]
    tried = Curve([scale for scale, _ in trials], rewards, "tried", errors, joined=False)
    far = [(scale, trial) for scale, trial in trials if not state.allows(trial.stages)]
    beyond = Curve([s for s, _ in far], [trial.reward for _, trial in far], "beyond max_shift", joined=False)
    return [tried, _fitted(line, "fitted to all noises"), *([beyond] if far else [])]
