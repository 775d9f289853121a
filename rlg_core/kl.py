"""How far guided sampling departs from the base: the KL divergence between their stochastic sampling paths.

The paths are those of the memoryless SDE (arXiv 2409.08861; Flow-GRPO's with `a = sqrt 2`, arXiv 2505.05470): a picture
does not depend on the noise that its path began with. By Girsanov's theorem their divergence is the integral of
`|eps - eps_base|^2` over the log ratio of noise to signal, for flow models and for models of the noise alike. It bounds
the divergence of the pictures' distributions, and equals it where guidance is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def flow_time(sigma: float) -> float:
    """The time of the flow `(1 - t) x_0 + t eps` whose ratio of noise to signal is `sigma`."""
    return sigma / (1.0 + sigma)


def path_weights(times: Sequence[float]) -> list[float]:
    """What each step adds to the divergence, in nats, per squared norm of its difference of velocities.

    `times` are those of a flow, from at most 1 down, with the end of the last step behind them: one more than steps.
    The velocity is `eps - x_0`, and `eps - eps_base` is `1 - t` times the difference of the velocities. Each interval
    is taken by the trapezoidal rule in the log ratio of noise to signal, half of it for the step at either end. The
    first interval may begin where that ratio is infinite: it holds the velocities' difference. The last one ends where
    it is zero, and there the difference falls with t: it holds the difference over t.
    """
    steps = len(times) - 1
    weights = [0.0] * steps
    for k, (t, after) in enumerate(zip(times[:-1], times[1:])):
        if after <= 0.0:
            weights[k] += 0.5 - t / 3.0
        elif k == 0:
            weights[k] += math.log(t / after) - (t - after)
        else:
            width = _log_ratio(t) - _log_ratio(after)
            weights[k] += 0.5 * width * (1.0 - t) ** 2
            if k + 1 < steps:
                weights[k + 1] += 0.5 * width * (1.0 - after) ** 2
            else:
                weights[k] += 0.5 * width * (1.0 - t) ** 2
    return weights


def _log_ratio(t: float) -> float:
    return math.log(t / (1.0 - t))
