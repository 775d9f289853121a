"""Path KL where that of the pictures is known: a unit shift of a Gaussian, 0.5 nats whatever the steps."""

from __future__ import annotations

import numpy as np
import pytest

from rlg_core.kl import flow_time, path_weights


def uniform(steps: int, shift: float = 1.0) -> list[float]:
    t = np.linspace(1.0, 0.0, steps + 1)
    return (shift * t / (1.0 + (shift - 1.0) * t)).tolist()


def karras(steps: int, largest: float = 14.6, least: float = 0.03) -> list[float]:
    ends = [value ** (1 / 7) for value in (largest, least)]
    return [*(np.linspace(*ends, steps) ** 7).tolist(), 0.0]


def exponential(steps: int) -> list[float]:
    return [*np.geomspace(14.6, 0.03, steps).tolist(), 0.0]


def velocity_difference(t: float, deviation: float) -> float:
    """Of base N(0, s^2) and RL model N(s, s^2): KL 0.5. It is the same at all x."""
    return t * deviation / ((1.0 - t) ** 2 * deviation**2 + t**2)


SCHEDULES = {
    "flow, 10 steps": uniform(10),
    "flow, 20 steps": uniform(20),
    "flow, 400 steps": uniform(400),
    "flow, 10 steps, shift 3": uniform(10, 3.0),
    "flow, 30 steps, shift 3": uniform(30, 3.0),
    "noise, Karras, 10 steps": [flow_time(s) for s in karras(10)],
    "noise, Karras, 30 steps": [flow_time(s) for s in karras(30)],
    "noise, exponential, 20 steps": [flow_time(s) for s in exponential(20)],
}


@pytest.mark.parametrize("deviation", [1.0, 0.5])
@pytest.mark.parametrize("name", SCHEDULES)
def test_it_sums_to_that_of_the_pictures(name, deviation):
    times = SCHEDULES[name]
    squares = [velocity_difference(t, deviation) ** 2 for t in times[:-1]]
    total = float(np.dot(path_weights(times), squares))
    assert total == pytest.approx(0.5, abs=0.001 if len(times) > 400 else 0.015)


def test_the_last_step_adds_half_the_square_of_the_noises_difference():
    assert path_weights([0.02, 0.01, 0.0])[-1] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("times", [[1.0, 0.0], [1.0, 0.5], [0.6, 0.3, 0.1]])
def test_every_step_counts_wherever_a_run_begins_and_ends(times):
    assert all(np.isfinite(w) and w > 0 for w in path_weights(times))
