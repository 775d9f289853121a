"""Ways to choose a scale, on rewards whose best scale is known, and on the kept pictures of the demo pair."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from bench import choosing


def test_without_noise_each_way_comes_near_the_best_scale():
    mean = 1.0 - (choosing.SCALES - 1.7) ** 2 / 4.0
    found = choosing.losses(mean, partial(choosing.pictures, mean, 4, 0.0, 0.0), 0, 12)
    assert list(found) == list(choosing.WAYS)
    assert all(cell["loss"] < 0.03 for cell in found.values())
    assert found["parabola"]["scale"] == pytest.approx(1.7, abs=0.02)


def test_trials_draw_from_the_kept_pictures_of_each_prompt():
    values = np.arange(2.0)[:, None, None] * 10 + np.arange(3.0)[:, None] * 100 + np.zeros((2, 3, 5))
    evaluate = choosing.drawn(values, values / 10, 4, np.random.default_rng(0))
    trial = evaluate(choosing.Stages.constant(0.01), 0)
    assert trial.scores == (10.0,) * 4 + (110.0,) * 4 + (210.0,) * 4 and trial.images == 4
    assert trial.shifts == (1.0,) * 4 + (11.0,) * 4 + (21.0,) * 4


def test_what_the_demo_says_is_measured_between_its_scales():
    kept = choosing.Kept("composition")
    right = kept.over_scales("correct")
    assert right.shape == (len(choosing.SCALES), 54, 10)
    assert right[200].mean() == pytest.approx(np.mean(kept.outcomes[2.0].values["correct"]))
    for run in choosing.on_demo(kept, 2, 2, runs=2):
        assert all(cell["loss"] >= 0.0 and cell["scale"] in choosing.SCALES for cell in run.values())
