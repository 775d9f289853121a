"""The dial: reward, validity and diversity over w, against LoRA strength scaled to w and against CFG alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
from PIL import Image
from torch import Tensor

from rlg_core.pictures import to_picture
from rlg_core.report.plot import Panel, number
from rlg_core.report.sheet import captioned, contact_sheet

from .findings import JUDGED, sentences, strengths
from .measure import Bench, Outcome
from .page import DIVERSITY, PLUS_MINUS, TITLES, Figures, curve, level, listed, signed, summary, table, told
from .pair import SEED
from .scores import CORRECT
from .sizes import Sizes
from .statistics import crossing_of_means, estimate, paired
from .ways import Way, lora, rlg

NEEDED = (0.0, 1.0, 2.0)
"""Scales without which nothing is said of an adapter."""

SHOWN = 4
"""Prompts on a contact sheet."""


def measure(bench: Bench, sizes: Sizes) -> dict:
    """{"adapters": {name: {reward, beta, rows}}}, a row for each scale, and {"cfg": rows} of the base alone."""
    base = bench(Way(), sizes.seeds)
    adapters, left = {}, []
    for expert in bench.pair.experts.values():
        if expert.is_main or expert.is_checkpoint:
            scales = sizes.whole if expert.is_checkpoint else sizes.scales
            turned_up = () if expert.is_checkpoint else (0.0, 1.0, *sizes.strengths)
            outcomes = bench.in_time([(w, rlg(expert.name, w)) for w in scales], sizes.seeds)
            if not outcomes.keys() >= set(NEEDED):
                left.append(expert.name)
                continue
            scaled = bench.in_time([(w, lora(expert.name, w)) for w in turned_up], sizes.seeds)
            before = [None, *outcomes.values()]
            rows = [_row(w, outcomes, o, scaled.get(w), expert.reward) for w, o in zip(outcomes, before)]
            adapters[expert.name] = {"reward": expert.reward, "beta": expert.beta, "rows": rows}
            adapters[expert.name]["as_cfg"] = _as_cfg(bench, sizes, outcomes, expert.reward)
    cfg = [_cfg_row(cfg, bench(Way(cfg=cfg), sizes.seeds), base) for cfg in sizes.cfgs]
    return {"adapters": adapters, "left": left, "cfg": cfg, "shown": _shown(bench, base)}


def _as_cfg(bench: Bench, sizes: Sizes, outcomes: dict[float, Outcome], reward: str) -> dict:
    """Where RLG reaches the reward of the best CFG scale, which is chosen on the other half of the seeds."""
    chosen, met = slice(sizes.seeds // 2), slice(sizes.seeds // 2, None)
    alone = {cfg: bench(Way(cfg=cfg), sizes.seeds) for cfg in sizes.cfgs}
    best = max(alone, key=lambda cfg: alone[cfg].means(reward, chosen).mean())
    scales = [w for w in outcomes if w >= 0]
    means, target = np.stack([outcomes[w].means(reward, met) for w in scales], 1), alone[best].means(reward, met)
    return {"cfg": best, "reward": asdict(estimate(target))} | crossing_of_means(scales, means, target)


def _shown(bench: Bench, base: Outcome) -> list[str]:
    """Prompts for the sheets: evenly spread ones whose first picture is right at w = 0, so that losses are seen."""
    count = len(bench.pair.prompts)
    order = sorted(range(count), key=lambda k: (not base.values[CORRECT][k], k * 7 % count))
    return [str(bench.pair.prompts[k]) for k in sorted(order[:SHOWN])]


def _row(
    scale: float, outcomes: dict[float, Outcome], before: Outcome | None, scaled: Outcome | None, reward: str
) -> dict:
    now, base = outcomes[scale], outcomes[0.0]

    def difference(other: Outcome | None, names: Sequence[str]) -> dict | None:
        return other and {name: asdict(now.over(other, name)) for name in names}

    return {
        "scale": scale,
        "rlg": summary(now),
        "lora": scaled and summary(scaled),
        "over_previous": difference(before, [reward]),
        "over_one_less": difference(outcomes.get(scale - 1), [reward]),
        "over_base": difference(base, list(now.values)),
        "over_lora": difference(scaled, [reward, CORRECT]),
        "diversity_over_base": asdict(paired(now.diversity, base.diversity)),
    }


def _cfg_row(cfg: float, now: Outcome, base: Outcome) -> dict:
    over = {name: asdict(now.over(base, name)) for name in now.values}
    return {"cfg": cfg, "values": summary(now), "over_base": over}


def draw_sheets(bench: Bench, sizes: Sizes, prompts: list[str], figures: Figures) -> None:
    """A contact sheet for each adapter: `prompts` from top to bottom, one noise, over w."""
    rows = [k for k, prompt in enumerate(bench.pair.prompts) if str(prompt) in prompts]
    shown = [w for w in sizes.scales if w >= 0]
    for expert in bench.pair.experts.values():
        if not (expert.is_main or expert.is_checkpoint):
            continue
        columns = [bench.pair.decoded(bench.pair.latents(rlg(expert.name, w), SEED)) for w in shown]
        captions = [f"w = {number(w)}" for w in shown]
        cells = [[captioned(_cell(column[k]), text) for text, column in zip(captions, columns)] for k in rows]
        figures.add(f"sheet-{_file(expert.name)}", "", contact_sheet(cells))


def _cell(picture: Tensor) -> Image.Image:
    return to_picture(picture.movedim(0, -1))


def _file(name: str) -> str:
    return name.replace(" ", "-")


def report(data: dict, figures: Figures) -> list[str]:
    lines = ["## The dial: reward over w", ""]
    for name, adapter in data["adapters"].items():
        lines += _adapter(name, adapter, data, figures)
    if data["left"]:
        lines += [f"Not measured yet: {listed(data['left'])}.", ""]
    return [*lines, *_cfg(data["cfg"], data["adapters"])]


def _adapter(name: str, adapter: dict, data: dict, figures: Figures) -> list[str]:
    reward, rows = adapter["reward"], adapter["rows"]
    beta = f", {_trained(reward, adapter['beta'])}" if adapter["beta"] else ""
    others = [n for n in rows[0]["rlg"] if n != reward]
    head = ["w", f"**{TITLES[reward]}**", *(TITLES[n] for n in others)]
    body = [[row["scale"], *(told(row["rlg"][n]) for n in (reward, *others))] for row in rows]
    lines = [f"### {name} (reward: {reward}{beta})", "", *_sheet(name, data["shown"], figures), *table(head, body)]
    lines += [f"- {sentence}" for sentence in sentences(adapter, data["cfg"])]
    return [*lines, *_plots(name, adapter, data["cfg"], figures)]


def _trained(reward: str, beta: float) -> str:
    """What `beta` is: Flow-GRPO's is that of a KL divergence, DiffusionNFT's one of squared velocities."""
    if reward == JUDGED:
        return f"trained by DiffusionNFT, weight {number(beta)} on squared velocities, which is no KL coefficient"
    return f"trained with KL coefficient {number(beta)}"


def _sheet(name: str, prompts: list[str], figures: Figures) -> list[str]:
    file = f"sheet-{_file(name)}.png"
    if not (figures.folder / file).is_file():
        return []
    legend = f"From top to bottom: {', '.join(prompts)} (spread over the prompts, of those that are right at w = 0)."
    return [f"![the same noise over w](evidence/{file})", "", legend]


def _plots(name: str, adapter: dict, cfg: list[dict], figures: Figures) -> list[str]:
    rows, scales = adapter["rows"], [row["scale"] for row in adapter["rows"]]
    panels = []
    for what in dict.fromkeys((adapter["reward"], CORRECT, DIVERSITY)):
        curves = [curve(scales, [row["rlg"][what] for row in rows], "RLG")]
        strength = [row for row in rows if row["lora"]]
        if strengths(rows):
            turned_up = curve([r["scale"] for r in strength], [r["lora"][what] for r in strength], "LoRA strength")
            curves.append(replace(turned_up, joined=False))
        if what != DIVERSITY:
            curves.append(level(scales, max(row["values"][what]["mean"] for row in cfg), "best CFG alone"))
        panels.append(Panel(curves, TITLES[what], "w", ""))
    return figures.plot(f"scales-{_file(name)}", f"{name}: mean {PLUS_MINUS} 95 % over w", panels)


def _cfg(rows: list[dict], adapters: dict) -> list[str]:
    names = list(rows[0]["values"])
    body = [[row["cfg"], *(told(row["values"][n]) for n in names)] for row in rows]
    best = max(rows, key=lambda row: row["values"][CORRECT]["mean"])
    lines = ["### CFG alone (the base, no RL)", "", *table(["CFG", *(TITLES[n] for n in names)], body)]
    lines += [f"- Most scenes are fully correct at CFG {number(best['cfg'])} ({told(best['values'][CORRECT])})."]
    for reward in dict.fromkeys(a["reward"] for a in adapters.values()):
        spread = max(rows, key=lambda row: abs(row["over_base"][reward]["mean"]))
        lines.append(
            f"- The most CFG does to {TITLES[reward]}: {signed(spread['over_base'][reward])}, "
            f"at CFG {number(spread['cfg'])}."
        )
    return lines
