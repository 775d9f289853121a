"""The search for a scale, on rewards whose optimum is known."""

from __future__ import annotations

import math

import pytest
import torch

from rlg_core.errors import RLGError
from rlg_core.report.plot import plot
from rlg_core.report.search import panels
from rlg_core.schedule import Stages
from rlg_core.search import STAGES, Bounds, Search, Trial, search


def judge(reward, shift=lambda w: abs(w) / 10, noise=(0.0,)):
    """Trials whose pictures share their noise over all scales."""
    calls = []

    def evaluate(stages):
        calls.append(stages)
        mean = (
            sum(map(reward, stages.scales)) / 3
            if not isinstance(reward, list)
            else sum(r(s) for r, s in zip(reward, stages.scales)) / 3
        )
        return Trial(stages, tuple(mean + e for e in noise), shift(sum(stages.scales) / 3))

    return evaluate, calls


@pytest.mark.parametrize("peak", [0.0, 0.83, 1.7, 3.1, 4.0])
def test_finds_the_peak_with_few_evaluations(peak):
    evaluate, calls = judge(lambda w: -((w - peak) ** 2), noise=(0.5, -0.5))
    found = search(evaluate, Bounds(0.0, 4.0), 10, False).best()
    assert abs(found.scale - peak) < 0.05 and len(calls) <= 10


@pytest.mark.parametrize("evaluations", [2, 3, 4, 7, 12])
def test_never_more_evaluations_than_asked(evaluations):
    evaluate, calls = judge(lambda w: math.sin(3 * w))
    search(evaluate, Bounds(-1.0, 4.0), evaluations, False)
    assert len(calls) <= max(2, evaluations) and len(set(calls)) == len(calls)


def test_a_bound_on_the_shift_holds_and_is_used_up():
    evaluate, _ = judge(lambda w: w)
    found = search(evaluate, Bounds(0.0, 4.0, max_shift=0.17), 14, False).best()
    assert found.shift <= 0.17 and found.scale > 1.6


def test_a_bound_that_no_scale_keeps_is_an_error():
    evaluate, _ = judge(lambda w: w)
    with pytest.raises(
        RLGError, match=r"No scale keeps the shift below max_shift = 0.05: the least was 0.1 at scale 1"
    ):
        search(evaluate, Bounds(1.0, 4.0, max_shift=0.05), 4, False).best()


def test_scales_in_the_wrong_order_are_an_error():
    with pytest.raises(RLGError, match="scale_min is 2"):
        Bounds(2.0, 1.0)


def test_each_stage_gets_its_own_scale():
    peaks = (3.0, 1.0, 2.0)
    evaluate, calls = judge([lambda w, p=p: -((w - p) ** 2) for p in peaks])
    found = search(evaluate, Bounds(0.0, 4.0), 12, True)
    assert found.best().stages.scales == pytest.approx(peaks, abs=0.35)
    assert found.best().reward > max(t.reward for t in found.lines["constant"].values())
    assert set(found.lines) == {"constant", *STAGES} and len(calls) <= 30


def test_the_smallest_scale_as_good_as_the_best():
    noise = torch.randn(8, generator=torch.Generator().manual_seed(0)).double().tolist()
    own = torch.randn(8, generator=torch.Generator().manual_seed(1)).double().tolist()
    state = Search(
        lambda s: Trial(s, tuple(min(s.scales[0], 1.0) + 0.001 * s.scales[0] * e + n for e, n in zip(own, noise))),
        Bounds(0, 4),
    )
    state.maximise("constant", 9, Stages.constant)
    assert state.smallest_as_good().scale == 1.0, "paired differences see through noise of 1 for a gain of 1"


def test_stages_cover_the_schedule():
    stages = Stages((1.0, 2.0, 3.0))
    assert [stages.scale_at(p) for p in (0.0, 0.32, 0.34, 0.66, 0.67, 1.0)] == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]


def test_the_picture_of_a_search():
    evaluate, _ = judge(lambda w: -((w - 2) ** 2), noise=(0.0, 0.3))
    found = search(evaluate, Bounds(0.0, 4.0, max_shift=0.25), 8, True)
    shown = panels(found)
    assert len(shown) == 3 and "beyond max_shift" in [curve.label for curve in shown[0].curves]
    assert plot(shown).shape == (1140, 760, 3)
