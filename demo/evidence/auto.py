"""RLG Auto Scale against the optimum of the sweep."""

from __future__ import annotations

import math
from dataclasses import asdict

import torch

from demo import scenes
from rlg_core.report.plot import number

from .measure import Bench
from .page import Figures, read, signed, table, told, yes
from .pair import SAMPLER, SCHEDULER
from .scores import SHIFT
from .sizes import Sizes
from .ways import Expert, rlg

KINDS = {"brightness": "brightness (demo)", "jpeg": "JPEG compressibility", "composition": "scene judge (demo)"}
SEED = 50_000
"""Other noise than the sweep's: what is found is judged on pictures it was not found on."""

LOW, HIGH = 0.0, 4.0
BOUND_AT = 2.0
"""The bounded search may shift pictures as far as this scale does in the sweep."""


def measure(bench: Bench, sizes: Sizes) -> dict:
    """{adapter: {"reward", "free", "bounded"}}: what was found, and the sweep's optimum under the same bound."""
    found = {}
    for expert in bench.pair.experts.values():
        if expert.is_main:
            bound = bench(rlg(expert.name, BOUND_AT), sizes.seeds).of(SHIFT).mean
            limits = {"free": 0.0, "bounded": round(bound, 4)}
            cases = {kind: _compared(bench, sizes, expert, limit) for kind, limit in limits.items()}
            found[expert.name] = {"reward": expert.reward} | cases
    return found


def _compared(bench: Bench, sizes: Sizes, expert: Expert, bound: float) -> dict:
    searched = bench.kept(
        f"auto scale {expert.name}, {sizes.searched} prompts x {sizes.images}, "
        f"{sizes.evaluations} evaluations, bound {bound:g}",
        [expert.name],
        lambda: _search(bench, sizes, expert, bound),
    )
    swept = {w: bench(rlg(expert.name, w), sizes.seeds) for w in sizes.scales if LOW <= w <= HIGH}
    allowed = {w: o for w, o in swept.items() if not bound or o.of(SHIFT).mean <= bound * 1.001}
    best = max(allowed, key=lambda w: allowed[w].of(expert.reward).mean)
    outcome = bench(rlg(expert.name, searched["scale"]), sizes.few)
    return {
        "bound": bound,
        "found": searched["scale"],
        "said": searched["said"][1:3],
        "swept": best,
        "difference": asdict(outcome.over(allowed[best], expert.reward)),
        "found_shift": asdict(outcome.of(SHIFT)),
    }


def _search(bench: Bench, sizes: Sizes, expert: Expert, bound: float) -> dict:
    """The scale and the report of the node on every few prompts, its inputs as lists, as the host hands them over."""
    pair = bench.pair
    chosen = range(0, len(pair.prompts), math.ceil(len(pair.prompts) / sizes.searched))
    inputs = {
        "model": pair.base,
        "rl_model": pair.rl_model(expert.name),
        "negative": pair.empty,
        "vae": pair.vae,
        "latent": {"samples": torch.zeros(1, scenes.CHANNELS, scenes.GRID, scenes.GRID)},
        "reward": pair.node("RLGRewardLoader", KINDS[expert.reward], "none"),
        "seed": SEED,
        "steps": sizes.steps,
        "cfg": 1.0,
        "sampler_name": SAMPLER,
        "scheduler": SCHEDULER,
        "scale_min": LOW,
        "scale_max": HIGH,
        "evaluations": sizes.evaluations,
        "images_per_scale": sizes.images,
        "max_shift": bound,
        "by_stage": False,
    }
    lists = {name: [value] for name, value in inputs.items()}
    lists |= {"positive": [pair.each[k] for k in chosen], "prompt": [str(pair.prompts[k]) for k in chosen]}
    with torch.inference_mode():
        scale, _, _, report = pair.host.classes["RLGAutoScale"].execute(**lists).result
    return {"scale": round(scale, 2), "said": report.split("\n")}


def report(data: dict, figures: Figures) -> list[str]:
    introduction = (
        f"RLG Auto Scale over w = {LOW:g} to {HIGH:g}, free and with `max_shift` set to the shift the sweep measured "
        f"at w = {BOUND_AT:g}. What it found is judged from the sweep's noise, which is not its own."
    )
    lines = ["## Auto scale against the swept optimum", "", introduction]
    rows, said, quoted = [], [], ["", "What its reports said:", ""]
    for name, part in data.items():
        for kind in ("free", "bounded"):
            case = part[kind]
            limit = "no bound" if kind == "free" else f"shift <= {case['bound']:.3f}"
            scales = (f"{case['found']:.2f}", number(case["swept"]))
            quoted.append(f"- {name}, {limit}: {' '.join(case['said'])}")
            rows.append([name, limit, *scales, signed(case["difference"]), told(case["found_shift"])])
        missed = [kind for kind in ("free", "bounded") if read(part[kind]["difference"]).sign == -1]
        kept = part["bounded"]["found_shift"]["mean"] <= part["bounded"]["bound"] * 1.001
        but = f" (worse: {' and '.join(missed)})" if missed else ""
        said.append(
            f"- {name}: no worse than the swept optimum beyond error: {yes(not missed)}{but}. Bound kept: {yes(kept)}."
        )
    head = ["adapter", "bound", "found w", "best w of the sweep", "difference in reward", "shift found"]
    return [*lines, *table(head, rows), *said, *quoted]
