"""Which steps a budget evaluates the base at, and what it makes of the steps between."""

from __future__ import annotations

import pytest
import torch

from rlg_core.budget import Budget, DifferenceExtrapolation, refresh_steps

SHIFTED = [3 * (1 - k / 20) / (1 + 2 * (1 - k / 20)) for k in range(20)]


@pytest.mark.parametrize(("every", "count"), [(2, 10), (3, 6), (4, 5), (16, 2)])
def test_one_step_in_every_so_many(every, count):
    steps = refresh_steps(SHIFTED, every)
    assert len(steps) == count and {0, 19} <= steps


def test_refreshes_are_denser_where_sigma_falls_fast():
    steps = sorted(refresh_steps(SHIFTED, 2))
    assert sum(step >= 10 for step in steps) > sum(step < 10 for step in steps)


def test_one_step_is_evaluated():
    assert refresh_steps([1.0], 4) == {0}


def test_linear_differences_are_met_between_refreshes():
    sigmas = [1.0, 0.8, 0.6, 0.4, 0.2]
    extrapolation = DifferenceExtrapolation(Budget(refresh_every=2), sigmas)
    truth = {sigma: torch.tensor([3.0 - sigma, 2.0 * sigma]) for sigma in sigmas}
    for step in (0, 1):
        extrapolation.observe("a", step, sigmas[step], truth[sigmas[step]], 1.0)
    due = min(step for step in refresh_steps(sigmas, 2) if step > 1)
    for step in range(2, due):
        assert torch.allclose(extrapolation.predicted("a", step, sigmas[step]), truth[sigmas[step]])
    assert extrapolation.predicted("a", due, sigmas[due]) is None
    assert extrapolation.predicted("b", 2, 0.6) is None


def test_a_restart_begins_anew():
    extrapolation = DifferenceExtrapolation(Budget(refresh_every=16), [1.0, 0.5, 0.25, 0.1])
    extrapolation.observe("a", 2, 0.25, torch.ones(1), 1.0)
    assert extrapolation.predicted("a", 1, 0.5) is None
    extrapolation.observe("a", 1, 0.5, torch.zeros(1), 1.0)
    assert torch.equal(extrapolation.predicted("a", 2, 0.25), torch.zeros(1))


def test_a_tolerance_evaluates_the_last_step():
    extrapolation = DifferenceExtrapolation(Budget(refresh_every=4, tolerance=0.5), [1.0, 0.8, 0.6, 0.4, 0.2])
    for step, sigma in enumerate((1.0, 0.8, 0.6)):
        extrapolation.observe("a", step, sigma, torch.ones(1), 1.0)
    assert extrapolation.predicted("a", 3, 0.4) is not None
    assert extrapolation.predicted("a", 4, 0.2) is None
