"""The numbers of docs/THEORY.md, measured again with exact scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.theory import exact, findings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "THEORY.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("w", "aimed", "sampled", "kl"), [(2, 0.333, 0.248, 0.020), (4, 0.200, 0.062, 0.242)])
def test_extrapolation_of_a_quadratic_reward_overshoots(w, aimed, sampled, kl):
    made = exact.sampled(findings.NARROWED, float(w))
    sde = exact.sde_variance(1.0, 0.5, float(w))
    off = exact.divergence(made, findings.NARROWED.tilted(w))
    assert (findings.exact_variance(w), exact.variance(made)) == pytest.approx((aimed, sampled), abs=6e-4)
    assert off == pytest.approx(kl, abs=6e-4)
    assert f"| {w} | {aimed:.3f} | {sampled:.3f} | {sde:.3f} | {kl:.3f} |" in PAGE
    assert sampled < sde < aimed  # the SDE lands nearer


@pytest.mark.parametrize("w", [0.5, 2.0, 3.0])
def test_the_deviation_is_the_geometric_mean_of_the_deviations(w):
    made = exact.sampled(findings.NARROWED, w, steps=1600)
    assert exact.variance(made) == pytest.approx(0.5**w, rel=0.01)  # s_base^(1-w) s_rl^w, squared
    assert exact.divergence(made, findings.NARROWED.tilted(2.0**w - 1.0)) < 1e-4  # the tilts: w = 2 is 3, w = 3 is 7


def test_interpolation_is_nearly_exact():
    assert max(findings.divergences((0.25, 0.5, 0.75)).values()) < 0.002


@pytest.mark.parametrize(("w", "aimed", "weight", "pushed"), [(2, 0.941, 0.946, 0.30), (4, 0.996, 0.997, 0.90)])
def test_a_mode_has_the_right_weight_and_is_pushed_out(w, aimed, weight, pushed):
    found = findings.mode(float(w))
    assert (found.aimed, found.weight) == pytest.approx((aimed, weight), abs=6e-4)
    assert found.pushed == pytest.approx(pushed, abs=6e-3)
    assert f"| {w} | {aimed:.3f} | {weight:.3f} | {pushed:.2f} |" in PAGE


def test_a_linear_reward_needs_no_correction_and_the_logarithm_is_no_rule():
    shift = findings.PAIRS["N(0, 1) to N(1, 1), a linear reward"]
    aim = shift.tilted(4.0)
    plain, logarithmic = (exact.divergence(exact.sampled(shift, w), aim) for w in (4.0, np.log2(5.0)))
    assert abs(plain) < 1e-3 and logarithmic == pytest.approx(1.408, abs=6e-3)
    assert "| N(0, 1) to N(1, 1), a linear reward | 4 | 0.000 | 1.408 |" in PAGE


def test_where_no_tilt_exists_rlg_returns_something():
    pair = exact.Pair(findings.NORMAL, findings.gaussian(0.0, 2.0))
    made = exact.sampled(pair, 2.0)
    assert pair.tilted(2.0) is None and f"variance {exact.variance(made):.2f}" in PAGE
