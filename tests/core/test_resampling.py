"""Resampled groups: how often another sample of prompts would have decided otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from rlg_core import resampling

FRONT = [(0.9, 0.1), (0.5, 0.5), (0.4, 0.4), (0.1, 0.9), (0.5, 0.5), (0.5, 0.2)]


def test_the_front_keeps_what_nothing_beats():
    assert resampling.front(FRONT) == [0, 1, 3, 4]
    assert resampling.front([]) == []


def test_shares_say_how_sure_a_winner_is():
    noise = np.random.default_rng(0).normal(size=(40, 1))
    shared = np.concatenate([noise, noise + 0.1], 1)  # what all candidates share decides nothing
    assert resampling.winners(shared).tolist() == [0.0, 1.0]
    unsure = resampling.winners(np.random.default_rng(1).normal(size=(40, 3)))
    assert unsure.sum() == pytest.approx(1.0) and unsure.max() < 1.0


def test_points_of_a_front_that_change_places_are_known():
    near = np.random.default_rng(0).normal(size=(2, 40))
    means = np.stack([[1.0 + 0.1 * near[0], 0.0 * near[0]], [0.0 * near[0], 1.0 + 0.1 * near[1]], [near[0], near[1]]])
    stays = resampling.on_front(means)
    assert stays[0] == stays[1] == 1.0 and 0.0 < stays[2] < 1.0


def test_the_interval_of_resampled_means_is_that_of_the_mean():
    values = np.random.default_rng(2).normal(size=200)
    low, high = resampling.interval(values[resampling.resamples(200)].mean(1))
    half = 1.96 * values.std() / 200**0.5
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)
    assert resampling.interval([1.0] * 10 + [np.inf] * 90) == (1.0, np.inf)
