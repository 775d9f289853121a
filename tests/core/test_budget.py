"""Which steps a budget evaluates the base at, and what it makes of the steps between."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.theory.findings import MODES
from rlg_core.budget import Budget, DifferenceExtrapolation, refresh_steps
from rlg_core.kl import flow_time

ONE = torch.ones(1, 1)
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
    truth = {sigma: torch.tensor([[3.0 - sigma, 2.0 * sigma]]) for sigma in sigmas}
    for step in (0, 1):
        extrapolation.observe("a", step, sigmas[step], truth[sigmas[step]], ONE, 2.0, 1)
    due = min(step for step in refresh_steps(sigmas, 2) if step > 1)
    for step in range(2, due):
        assert torch.allclose(extrapolation.predicted("a", step, sigmas[step]), truth[sigmas[step]])
    assert extrapolation.predicted("a", due, sigmas[due]) is None
    assert extrapolation.predicted("b", 2, 0.6) is None


def test_a_restart_begins_anew():
    extrapolation = DifferenceExtrapolation(Budget(refresh_every=16), [1.0, 0.5, 0.25, 0.1])
    extrapolation.observe("a", 2, 0.25, ONE, ONE, 2.0, 1)
    assert extrapolation.predicted("a", 1, 0.5) is None
    extrapolation.observe("a", 1, 0.5, 0 * ONE, ONE, 2.0, 1)
    assert torch.equal(extrapolation.predicted("a", 2, 0.25), 0 * ONE)


def test_a_tolerance_evaluates_the_last_step():
    extrapolation = DifferenceExtrapolation(Budget(refresh_every=4, tolerance=0.5), [1.0, 0.8, 0.6, 0.4, 0.2])
    for step, sigma in enumerate((1.0, 0.8, 0.6)):
        extrapolation.observe("a", step, sigma, ONE, ONE, 2.0, 1)
    assert extrapolation.predicted("a", 3, 0.4) is not None
    assert extrapolation.predicted("a", 4, 0.2) is None


def budgeted_error(in_time: bool, every: int = 2, w: float = 4.0) -> float:
    """Median relative error of a budget on a model of the noise with exact scores, against all evaluations.

    30 steps of Euler's method from sigma 700. `in_time`: differences of the flow's velocities over its time; else those
    of the noise over sigma.
    """
    sigmas = [*(np.linspace(700 ** (1 / 7), 0.03 ** (1 / 7), 30) ** 7).tolist(), 0.0]
    times = [flow_time(sigma) for sigma in sigmas]

    def noise(mixture, x, sigma):
        t = flow_time(sigma)
        return -t * mixture.score(x * (1.0 - t), t)

    def sample(extrapolation):
        x = sigmas[0] * np.linspace(-2.0, 2.0, 101)
        for step, (sigma, t, after) in enumerate(zip(sigmas[:-1], times, sigmas[1:])):
            rl, place, factor = noise(MODES.rl, x, sigma), (t if in_time else sigma), (sigma / t if in_time else 1.0)
            known = None if extrapolation is None else extrapolation.predicted("a", step, place)
            if known is None:
                difference = rl - noise(MODES.base, x, sigma)
                if extrapolation is not None:
                    extrapolation.observe("a", step, place, torch.from_numpy(difference * factor)[None], ONE, w, 1)
            else:
                difference = known[0].numpy() / factor
            x = x + (after - sigma) * (rl + (w - 1.0) * difference)
        return x

    exact = sample(None)
    places = times if in_time else sigmas
    off = sample(DifferenceExtrapolation(Budget(refresh_every=every), places[:-1])) - exact
    return float(np.median(np.abs(off) / np.abs(exact)))


def test_models_of_the_noise_are_extrapolated_in_the_flows_time():
    in_time, in_sigma = budgeted_error(True), budgeted_error(False)
    assert in_time < 0.5 * in_sigma and in_time < 0.03


def test_a_refresh_after_skipped_steps_shows_by_how_much_they_were_off():
    extrapolation = DifferenceExtrapolation(Budget(refresh_every=4), [1.0, 0.8, 0.6, 0.4, 0.2])
    missed = [
        extrapolation.observe("a", step, time, value * ONE, ONE, 2.0, 1)
        for step, time, value in ((0, 1.0, 1.0), (1, 0.8, 2.0), (4, 0.2, 4.0))
    ]
    assert missed[:2] == [None, None] and missed[2].item() == pytest.approx(1.0)  # 2 + 3 x 1, and 4 came


@pytest.mark.parametrize(
    ("weight", "refreshed"),
    [
        pytest.param(2.0, True, id="the worst picture decides"),
        pytest.param(torch.tensor([[2.0]] * 15 + [[1.0]]), False, id="at w = 1 no base is needed"),
        pytest.param(torch.tensor([[2.0]] * 15 + [[0.0]]), True, id="at w = 0 the base is all there is"),
    ],
)
def test_a_tolerance_holds_for_each_picture_of_a_batch(weight, refreshed):
    """One of sixteen pictures jumps by 0.08 of its velocity; over the batch that is 0.02."""
    extrapolation = DifferenceExtrapolation(Budget(refresh_every=4, tolerance=0.05), SHIFTED)
    differences = torch.zeros(16, 1)
    for step in range(4):
        if step == 3:
            differences = differences.clone()
            differences[-1] = 0.08
        extrapolation.observe("a", step, SHIFTED[step], differences, torch.ones(16, 1), weight, 16)
    assert (extrapolation.predicted("a", 5, SHIFTED[5]) is None) == refreshed


def test_a_pictures_prompts_count_together():
    """Two prompts of two pictures, prompt by prompt: 0.3 and 0.4 of a velocity of norm 1 in each are 0.5 of both."""
    extrapolation = DifferenceExtrapolation(Budget(refresh_every=4), [1.0, 0.8, 0.6, 0.4, 0.2])
    velocity = torch.full((4, 1), 0.5**0.5)
    for step, rows in ((0, [0, 0, 0, 0]), (1, [0, 0, 0, 0]), (4, [0.3, 0, 0.4, 0.1])):
        off = extrapolation.observe("a", step, 1 - step / 5, torch.tensor(rows)[:, None], velocity, 2.0, 2)
    assert torch.allclose(off, torch.tensor([0.5, 0.1]))
