"""`max_ratio` at high scales: whether it keeps scenes right, and what it costs of the reward."""

from __future__ import annotations

from demo.evidence.scores import CORRECT

from .demo_pair import Demo
from .host import say
from .report import table

TITLE = "Bounding guidance at high scales"
CFG, STEPS, PROMPTS, SEEDS = 2.0, 10, 18, 2
SCALES = (1.0, 4.0, 6.0)
RATIOS = (0.0, 0.4, 0.2, 0.1)
HOW = """The demo pair's adapters, CFG {cfg:g}, {steps} Euler steps, {count} pictures per row, with 95 % intervals for
other prompts. `max_ratio` 0 is no bound; w = 1 is the RL model. *Right scenes*: pictures that show what the prompt
says."""


def run() -> str:
    demo = Demo(PROMPTS)
    rows = []
    for expert in demo.adapters():
        for scale in SCALES:
            for ratio in RATIOS if scale > 1 else (0.0,):
                say(f"max_ratio {ratio:g} at w = {scale:g}, {expert.name}")
                model = demo.guided({expert.name: scale}, max_ratio=ratio)
                scored = demo.scored(demo.latents(model, CFG, STEPS, range(SEEDS)))
                told = (scored.told(expert.reward), f"{scored.told(CORRECT)} %", scored.told_spread())
                rows.append((expert.name, f"{scale:g}", f"{ratio:g}" if ratio else "none", *told))
    head = ("adapter", "w", "max_ratio", "its reward", "right scenes", "diversity")
    return f"{HOW.format(cfg=CFG, steps=STEPS, count=PROMPTS * SEEDS)}\n\n{table(head, rows)}"
