"""Intervals: how often they hold the truth, on data whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlg_core import statistics

TRIALS = 800


def grouped(generator, groups=12, each=4, between=1.0, within=0.5):
    """Values whose truth over all possible groups is 0, and the truth of these groups."""
    centres = generator.normal(0.0, between, groups)
    return [generator.normal(c, within, each) for c in centres], float(centres.mean())


def test_each_interval_holds_what_it_says_it_estimates():
    generator = np.random.default_rng(0)
    held = {"other": 0, "these": 0, "pooled": 0}
    for _ in range(TRIALS):
        groups, these = grouped(generator)
        other, own, pooled = (
            statistics.clustered(groups),
            statistics.stratified(groups),
            statistics.independent(np.concatenate(groups)),
        )
        held["other"] += abs(other.mean) <= other.half
        held["these"] += abs(own.mean - these) <= own.half
        held["pooled"] += abs(pooled.mean) <= pooled.half
    shares = {name: count / TRIALS for name, count in held.items()}
    assert shares["other"] == pytest.approx(0.95, abs=0.03) and shares["these"] == pytest.approx(0.95, abs=0.03)
    assert shares["pooled"] < 0.8  # what takes all pictures for independent promises too much


def test_small_samples_use_students_t():
    assert statistics.independent([0.0, 2.0]).half == pytest.approx(12.706, abs=1e-3)
    assert statistics.quantile(53) == pytest.approx(2.0057, abs=1e-4)
    assert statistics.quantile(math.inf) == pytest.approx(1.95996, abs=1e-4)
    four = statistics.independent([1.0, 2.0, 3.0, 4.0])
    assert four.mean == 2.5 and four.error == pytest.approx(math.sqrt(5 / 3) / 2)
    assert math.isnan(statistics.independent([1.0]).error)
    assert math.isnan(statistics.independent([1.0]).half) and statistics.independent([1.0]).sign == 0


def test_degrees_of_freedom():
    groups, _ = grouped(np.random.default_rng(1), groups=5, each=3)
    assert statistics.clustered(groups).degrees == 4 and statistics.stratified(groups).degrees == 10
    assert math.isnan(statistics.stratified([[1.0], [2.0]]).half)
    assert statistics.of_these([[1.0], [2.0]]) == statistics.clustered([[1.0], [2.0]])


def test_p_values_agree_with_intervals():
    for values in ([0.1, 0.2, 0.35], [-1.0, 1.0, 0.3], [2.0, 2.1, 1.9]):
        found = statistics.independent(values)
        assert (found.p_value < 0.05) == (found.sign != 0)
    assert statistics.Estimate(1.0, math.nan, 1).p_value == 1.0
    assert statistics.Estimate(1.0, 0.0, 5).p_value == 0.0 and statistics.Estimate(0.0, 0.0, 5).p_value == 1.0


def test_holm_steps_down():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert statistics.holm([0.02, 0.001]) == [True, True] and statistics.holm([]) == []


def test_the_interval_of_a_ratio_holds_it():
    generator, held = np.random.default_rng(2), 0
    for _ in range(TRIALS):
        below = generator.normal(1.0, 1.0, 30)
        _, low, high = statistics.ratio(0.7 * below + generator.normal(0.0, 0.5, 30), below)
        held += low <= 0.7 <= high
    assert held / TRIALS == pytest.approx(0.95, abs=0.03)
    assert statistics.ratio([1.0, 2.0, 0.5], [0.1, -0.2, 0.15])[1:] == (-math.inf, math.inf)


def test_wilson():
    assert statistics.wilson(0, 300) == pytest.approx((0.0, 0.0126), abs=1e-3)
    assert statistics.wilson(15, 300) == pytest.approx((0.0305, 0.0808), abs=1e-3)
