"""Segmented guidance against CFG alone, the RL model with CFG and exact RLG with CFG, at equal evaluations."""

from __future__ import annotations

from demo.evidence.scores import CORRECT

from .demo_pair import Demo, Scores
from .host import say
from .report import table

TITLE = "Segmented guidance"
CFG, EVALUATIONS, PROMPTS, SEEDS = 2.0, 40, 18, 3
SCALES = (1.5, 3.0)
WINDOWS = ((0.0, 0.5), (0.2, 0.8))
HOW = """The demo pair, CFG {cfg:g}, Euler, {evaluations} model evaluations per picture for every way: 20 steps of two
evaluations, or 10 of exact RLG's four. {count} pictures per row ({prompts} prompts, {seeds} seeds), with 95 %
intervals for other prompts. Differences are from exact RLG with CFG at the same w and from the RL model with CFG,
picture by picture. Segmented: RLG without CFG inside the window, the RL model with CFG outside."""


def run() -> str:
    demo = Demo(PROMPTS)
    rows = []
    for expert in demo.experts.values():
        rows += of_expert(demo, expert.name, expert.reward)
    head = ("expert", "way", "its reward", "over exact", "over RL + CFG", "right scenes", "diversity")
    how = HOW.format(cfg=CFG, evaluations=EVALUATIONS, count=PROMPTS * SEEDS, prompts=PROMPTS, seeds=SEEDS)
    return f"{how}\n\n{table(head, rows)}"


def of_expert(demo: Demo, name: str, reward: str) -> list[tuple[str, ...]]:
    rows, (base, tuned) = [], (measured(demo, model, 20) for model in (demo.base, demo.rl(name)))
    say(f"segmented: {name}")

    def tell(way: str, scored: Scores, exact: Scores | None = None) -> None:
        over = [scored.over(other, reward) if other else None for other in (exact, tuned)]
        signs = (f"{value.mean:+.3f} +- {value.half:.3f}" if value else "" for value in over)
        rows.append(
            (name, way, scored.told(reward), *signs, f"{scored.told(CORRECT)} %", scored.told_spread()),
        )

    tell("base + CFG", base)
    tell("RL + CFG", tuned)
    for scale in SCALES:
        exact = measured(demo, demo.guided({name: scale}), 10)
        tell(f"exact RLG + CFG, w = {scale:g}", exact)
        for start, end in WINDOWS:
            window = {"start_percent": start, "end_percent": end}
            model = demo.guided({name: scale}, {"evaluate": "segmented"}, **window)
            tell(f"segmented, w = {scale:g} in {start:g} to {end:g}", measured(demo, model, 20), exact)
    return rows


def measured(demo: Demo, model: object, steps: int) -> Scores:
    return demo.scored(demo.latents(model, CFG, steps, range(SEEDS)))
