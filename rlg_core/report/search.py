"""Shows a search for the scale as panels: what was tried, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping

from ..search import CONSTANT, STAGES, Search, Trial
from .plot import Curve, Panel, number


def panels(state: Search) -> list[Panel]:
    """The trials: reward, shift and diversity over constant scales, and reward over the scale of each stage tried."""
    best, trials = state.best(), dict(sorted(state.lines[CONSTANT].items()))
    marks = {best.scale: f"chosen: {number(best.scale)}"} if best.is_constant else {}
    shown = [
        Panel(_reward_curves(state, trials), "Reward, mean \u00b1 standard error", "scale w", "reward", marks),
        Panel(_distance_curves(trials), "Mean distance of pictures", "scale w", "distance", marks),
    ]
    stages = [_line(name, state.lines[name]) for name in STAGES if name in state.lines]
    if stages:
        title = "Reward by stage; chosen: " + ", ".join(f"{n} {number(s)}" for n, s in zip(STAGES, best.stages.scales))
        shown.append(Panel(stages, title, "scale of that stage", "reward"))
    return shown


def _distance_curves(trials: Mapping[float, Trial]) -> list[Curve]:
    shift = Curve(list(trials), [trial.shift for trial in trials.values()], "from the base's (shift)")
    diversity = Curve(list(trials), [trial.diversity for trial in trials.values()], "between a prompt's (diversity)")
    return [shift, diversity] if diversity.points() else [shift]


def _line(name: str, trials: Mapping[float, Trial]) -> Curve:
    scales = sorted(trials)
    return Curve(scales, [trials[s].reward for s in scales], name)


def _reward_curves(state: Search, trials: Mapping[float, Trial]) -> list[Curve]:
    """All constant trials, and again those that moved too far, as dots in another colour."""
    far = {scale: trial for scale, trial in trials.items() if not state.bounds.allows(trial)}
    rewards = [trial.reward for trial in trials.values()]
    tried = Curve(list(trials), rewards, "tried", [trial.error for trial in trials.values()])
    beyond = Curve(list(far), [trial.reward for trial in far.values()], "beyond max_shift", joined=False)
    return [tried, beyond] if far else [tried]
