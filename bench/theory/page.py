"""docs/THEORY.md and its plots."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlg_core.pictures import to_picture
from rlg_core.report.plot import Curve, Panel, plot

from .exact import GRID, STEPS, Pair, sampled, variance
from .findings import MODES, Dose, divergences, doses, gaussian, mode, variances

PAGE = """# Theory

What a scale of w aims at, and what sampling with it makes, where both are known: Gaussians and mixtures of them in
one dimension, with exact scores. `python -m bench.theory` writes this page; a test holds its numbers.

**Interpolation is nearly exact; extrapolation has the right direction and too large a dose.**

## What is exact

An RL model trained to its optimum with KL coefficient beta has the density `p_rl ~ p_base exp(R / beta)`. Then
`p_base^(1 - w) p_rl^w` is the density that training with `beta / w` would have: the *tilt* w. This holds for the
densities of finished pictures. RLG combines the velocities of the noisy ones, and noise and tilt do not commute: the
tilted density, noised, is not the mean of the two noised densities. Along the path the rule is exact for a linear
reward on a Gaussian (a shift), at w = 0 and at w = 1, and nowhere else.

Ratios of beta hold within one recipe only: the same reward, its scale, the same data, and training that has
converged. Beta 0.04 of one paper and 0.04 of another are different numbers; a run that was stopped early has not
reached its beta.

## A quadratic reward

N(0, 1) to N(0, 1/2). Sampled with the ODE the deviation is `s_base^(1-w) s_rl^w`, where the tilted density has `1 /
s^2 = (1-w) / s_base^2 + w / s_rl^2`. So w = 2 is really tilt {tilts[0]:.0f}, and w = 3 tilt {tilts[1]:.0f}.

| w | variance aimed at | ODE ({steps} Euler steps) | memoryless SDE | KL of the ODE's samples from the aim, nats |
| --- | --- | --- | --- | --- |
{variances}

![variance over w: the tilted density, the ODE, the memoryless SDE](theory/variance.png)

Between 0 and 1 the KL stays below {inside:.4f}. The memoryless SDE (`sigma_t^2 = 2 t / (1 - t)`) lands nearer. With
steps that are small enough `euler_ancestral` at eta 1 samples it; with 20 steps its own error is larger than that
gain. This has not been measured on the demo pair, whose tilted density nobody knows.

## Two modes

The base has two modes of equal weight, of which the RL model gives one 0.8.

| w | weight of that mode, aimed at | as sampled | its mean is pushed out by, in deviations |
| --- | --- | --- | --- |
{modes}

![densities at w = 1, 2 and 4](theory/modes.png)

What is chosen comes out nearly right, and is exaggerated.

## Where no tilt exists

N(0, 1) to N(0, 2) has no tilt of 2: `p_rl^2 / p_base` cannot be normalised. RLG returns samples nevertheless, here of
variance {none:.2f}. Nothing in a picture says so.

## A dose-corrected scale

None was found. For the quadratic pair above, the tilt n is reached at w = log2(1 + n), and a scale that rises over
the run from 2 n / (1 + n) to n follows it exactly. Both depend on that pair: another ratio of the variances needs
another base of the logarithm, and a linear reward needs no correction. KL from the tilt n, in nats, smaller is
better:

| pair | n | w = n | w = log2(1 + n) | rising scale | reward of the rising scale over plain w of equal KL |
| --- | --- | --- | --- | --- | --- |
{doses}

A constant rule such as log2(1 + n) makes what plain w of the same size makes: it renames the dial, so at equal KL
from the base it cannot be better. The rising scale could be: the last column has its mean log ratio `log p_rl /
p_base` minus that of the constant scale with the same KL from the base, interpolated to about 0.005. It gains nothing
beyond that, and loses on three modes. Choose w by what it does (RLG Sweep, RLG Auto Scale), not by a ratio of betas.
"""
STEPS_SHOWN = (0.5, 1.0, 2.0, 3.0, 4.0)
MODES_AT = (1.0, 2.0, 4.0)


def write(folder: Path) -> Path:
    """Writes THEORY.md and theory/*.png below `folder`."""
    found = variances()
    pictures = folder / "theory"
    pictures.mkdir(parents=True, exist_ok=True)
    panels = {"variance": [variance_panel(found)], "modes": mode_panels()}
    for name, shown in panels.items():
        to_picture(plot(shown, 760, 300)).save(pictures / f"{name}.png", optimize=True)
    page = folder / "THEORY.md"
    page.write_text(text(found), encoding="utf-8")
    return page


def text(found: dict[float, tuple[float, float, float]]) -> str:
    off = divergences(STEPS_SHOWN)
    facts = {
        "steps": STEPS,
        "tilts": [1.0 / (0.5**w) - 1.0 for w in (2, 3)],
        "inside": max(divergences((0.25, 0.5, 0.75)).values()) + 5e-5,
        "variances": "\n".join(_row(f"{w:g}", *(f"{v:.3f}" for v in (*found[w], abs(off[w])))) for w in STEPS_SHOWN),
        "modes": "\n".join(_mode_row(w) for w in MODES_AT),
        "none": variance(sampled(Pair(gaussian(0.0, 1.0), gaussian(0.0, 2.0)), 2.0)),
        "doses": "\n".join(map(_dose_row, doses())),
    }
    return PAGE.format(**facts)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _mode_row(w: float) -> str:
    found = mode(w)
    return _row(f"{w:g}", f"{found.aimed:.3f}", f"{found.weight:.3f}", f"{abs(found.pushed):.2f}")


def _dose_row(dose: Dose) -> str:
    kl = (f"{abs(value):.3f}" for value in (dose.plain, dose.logarithmic, dose.schedule))
    return _row(dose.name, f"{dose.n:g}", *kl, f"{dose.above_plain:+.3f}")


def variance_panel(found: dict[float, tuple[float, float, float]]) -> Panel:
    names = ("tilted density", "ODE", "memoryless SDE")
    curves = [Curve(list(found), [v[k] for v in found.values()], name, dots=False) for k, name in enumerate(names)]
    return Panel(curves, "N(0, 1) to N(0, 1/2)", "scale w", "variance")


def mode_panels() -> list[Panel]:
    shown = np.abs(GRID) <= 4.0
    panels = []
    for w in MODES_AT:
        made, aim = np.exp(sampled(MODES, w)), np.exp(MODES.tilted(w))
        x = GRID[shown].tolist()
        curves = [Curve(x, p[shown].tolist(), label, dots=False) for p, label in ((aim, "tilted"), (made, "RLG"))]
        panels.append(Panel(curves, f"w = {w:g}", "x", "density"))
    return panels
