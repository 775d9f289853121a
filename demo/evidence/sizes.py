"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """How much is measured: `prompts` of the 54, and a number of pictures per prompt.

    That is `seeds` in the sweeps over w (`scales`, of the full checkpoint `whole`), over LoRA `strengths` and over CFG,
    and `few` elsewhere. Implicit reward: `ranked` pictures per prompt, with `draws` each. Auto scale: `searched`
    prompts, with `images` per prompt and scale.
    """

    prompts: int = 54
    seeds: int = 10
    few: int = 2
    steps: int = 10
    scales: tuple[float, ...] = (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
    whole: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0)
    strengths: tuple[float, ...] = (0.5, 4.0)
    cfgs: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.5)
    grid: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)
    ranked: int = 16
    draws: int = 16
    searched: int = 9
    images: int = 4
    evaluations: int = 8


FULL = Sizes()
QUICK = Sizes(
    prompts=4,
    seeds=2,
    steps=4,
    scales=(0.0, 1.0, 2.0),
    whole=(0.0, 1.0, 2.0),
    strengths=(2.0,),
    cfgs=(1.0, 3.0),
    grid=(0.0, 1.0),
    ranked=4,
    draws=2,
    searched=1,
    images=2,
    evaluations=2,
)
