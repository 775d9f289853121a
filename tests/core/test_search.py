"""The search for a scale, on rewards whose optimum is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlg_core.errors import RLGError
from rlg_core.report.plot import plot
from rlg_core.report.search import panels
from rlg_core.schedule import Stages
from rlg_core.search import STAGES, search
from rlg_core.trials import Bounds, Trial


def judge(reward, shift=lambda w: abs(w) / 10, pictures=2, spread=0.0, seed=0):
    """Trials of `pictures` that share their noise within a round: a level of their own and a slope over the scale."""
    calls = []

    def evaluate(stages, noise):
        calls.append((stages, noise))
        level, slope = np.random.default_rng((seed, noise)).normal(size=(2, pictures)) * spread
        rewards = reward if isinstance(reward, list) else [reward] * 3
        mean = sum(r(s) for r, s in zip(rewards, stages.scales)) / 3
        size = shift(sum(stages.scales) / 3)
        off = np.random.default_rng((seed, noise, 1)).normal(size=pictures) * spread * 0.05 * (size != 0)
        shifts = tuple(size + off)
        return Trial(stages, tuple(mean + level + 0.3 * slope * stages.scales[0]), shifts, noise=noise)

    return evaluate, calls


@pytest.mark.parametrize("peak", [0.0, 0.83, 1.7, 3.1, 4.0])
def test_finds_the_peak_with_few_evaluations(peak):
    evaluate, calls = judge(lambda w: -((w - peak) ** 2))
    found = search(evaluate, Bounds(0.0, 4.0), 8, False).choice
    assert found.stages.scales[0] == pytest.approx(peak, abs=0.02) and len(calls) <= 10


@pytest.mark.parametrize("evaluations", [2, 3, 4, 7, 12])
def test_two_more_evaluations_than_asked_and_none_twice(evaluations):
    evaluate, calls = judge(lambda w: math.sin(3 * w))
    search(evaluate, Bounds(-1.0, 4.0), evaluations, False)
    assert len(calls) <= evaluations + 2 and len(set(calls)) == len(calls)


def test_the_gain_is_measured_on_noise_that_had_no_part_in_the_choice():
    evaluate, calls = judge(lambda w: 1.0 - (w - 2.0) ** 2 / 4.0, pictures=16, spread=1.0)
    state = search(evaluate, Bounds(0.0, 4.0), 8, False)
    final = state.choice.trial.noise
    assert {stages.scales[0] for stages, noise in calls if noise == final} == {0.0, state.choice.stages.scales[0]}
    scores = evaluate(state.choice.stages, final).scores, evaluate(Stages.constant(0.0), final).scores
    assert state.choice.gain.mean == pytest.approx(np.mean(scores[0]) - np.mean(scores[1]))
    assert state.choice.gain.half > 0 and state.choice.gain.degrees == 15


def test_intervals_hold_the_gain_and_the_best_scale():
    held = {"gain": 0, "best": 0}
    for trial in range(40):
        evaluate, _ = judge(lambda w: 1.0 - (w - 2.0) ** 2 / 4.0, pictures=24, spread=0.6, seed=trial)
        found = search(evaluate, Bounds(0.0, 4.0), 8, False).choice
        truth = 1.0 - (found.stages.scales[0] - 2.0) ** 2 / 4.0
        held["gain"] += abs(found.gain.mean - truth) <= found.gain.half
        peak = found.peaks["constant"]
        held["best"] += peak.low <= 2.0 <= peak.high
    assert held["gain"] >= 34 and held["best"] >= 33


def test_a_bound_on_the_shift_holds_and_is_used_up():
    evaluate, _ = judge(lambda w: w)
    state = search(evaluate, Bounds(0.0, 4.0, max_shift=0.17), 14, False)
    assert state.choice.trial.shift <= 0.17 and state.choice.stages.scales[0] > 1.6


def test_the_bound_is_for_the_upper_limit_of_the_shift():
    """A shift that rises less and less lies above straight lines between trials: fresh noise shows it."""
    evaluate, _ = judge(lambda w: w, shift=lambda w: math.sqrt(w) / 10, pictures=12, spread=0.3)
    state = search(evaluate, Bounds(0.0, 4.0, max_shift=0.12), 8, False)
    chosen = state.choice.stages
    assert state.upper_shift(chosen) <= 0.12 and math.sqrt(chosen.scales[0]) / 10 < 0.12
    assert state.upper_shift(chosen) > np.mean(state.choice.trial.shifts)
    assert chosen.scales[0] > 1.0


def test_a_bound_that_no_scale_keeps_is_an_error():
    evaluate, _ = judge(lambda w: w)
    with pytest.raises(
        RLGError, match=r"No scale keeps the shift below max_shift = 0.05: the least was 0.1 at scale 1"
    ):
        search(evaluate, Bounds(1.0, 4.0, max_shift=0.05), 4, False)


def test_scales_in_the_wrong_order_are_an_error():
    with pytest.raises(RLGError, match="scale_min is 2"):
        Bounds(2.0, 1.0)


def test_each_stage_gets_its_own_scale():
    peaks = (3.0, 1.0, 2.0)
    evaluate, calls = judge([lambda w, p=p: -((w - p) ** 2) for p in peaks])
    found = search(evaluate, Bounds(0.0, 4.0), 12, True)
    assert found.choice.stages.scales == pytest.approx(peaks, abs=0.05)
    assert set(found.lines) == {"constant", *STAGES} and len(calls) <= 36


def test_the_smallest_scale_as_good_as_the_best():
    """What rises by less than its error over the upper half of the range is not worth a larger scale."""
    evaluate, _ = judge(lambda w: 1.0 - math.exp(-2.0 * w), pictures=8, spread=0.3)
    found = search(evaluate, Bounds(0.0, 4.0), 11, False).choice
    assert found.stages.scales[0] < 3.0 and found.stages.scales[0] < found.peaks["constant"].best


def test_stages_cover_the_schedule():
    stages = Stages((1.0, 2.0, 3.0))
    assert [stages.scale_at(p) for p in (0.0, 0.32, 0.34, 0.66, 0.67, 1.0)] == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]


def test_the_picture_of_a_search():
    evaluate, _ = judge(lambda w: -((w - 2) ** 2), spread=0.1)
    found = search(evaluate, Bounds(0.0, 4.0, max_shift=0.25), 8, True)
    shown = panels(found)
    assert len(shown) == 3 and "beyond max_shift" in [curve.label for curve in shown[0].curves]
    assert plot(shown).shape == (1140, 760, 3)
