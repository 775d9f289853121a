"""The theorem's prediction: RLG at w on a model trained with KL coefficient beta samples what beta / w aims at."""
from __future__ import annotations

from dataclasses import asdict

from rlg_core.plots import Panel, number
from rlg_core.sweep import picture_distance

from .measure import CORRECT, Bench
from .page import DIVERSITY, TITLES, Figures, curve, level, read, signed, summary, table, told, yes
from .pair import Pair
from .sizes import Sizes
from .statistics import crossing, estimate, paired
from .ways import Expert, Way, relatives, rlg


def measure(bench: Bench, sizes: Sizes) -> dict:
    """{"coefficients": one entry for each adapter trained with another beta, "seeds": one for each training seed}."""
    experts = list(bench.pair.experts.values())
    mains = [e for e in experts if e.is_main]
    return {
        "coefficients": [_compared(bench, sizes, main, other) for main in mains if main.beta
                         for other in relatives(experts, main, "beta") if other.beta],
        "seeds": [_seed(bench, sizes, main.reward, e) for main in mains for e in [main, *relatives(experts, main, "seed")]
                  if relatives(experts, main, "seed")],
    }  # fmt: skip


def _compared(bench: Bench, sizes: Sizes, main: Expert, other: Expert) -> dict:
    """`main` at w = 1 and at beta / beta', against `other` at w = 1."""
    scale = bench.pair.node("RLGScaleFromKL", main.beta, other.beta)
    guided = {"main at 1": (main, 1.0), "main at w": (main, scale), "other at 1": (other, 1.0)}
    ways = {"base": Way()} | {name: rlg(expert.name, w) for name, (expert, w) in guided.items()}
    outcomes = {name: bench(way, sizes.seeds) for name, way in ways.items()}
    target, names = outcomes["other at 1"], (main.reward, CORRECT)
    sweep = [bench(rlg(main.name, w), sizes.seeds).of(main.reward) for w in sizes.scales]
    return {
        "main": main.name, "other": other.name, "reward": main.reward, "betas": [main.beta, other.beta], "scale": scale,
        "values": {name: summary(o) for name, o in outcomes.items()},
        "over_other": {name: {n: asdict(paired(o.values[n], target.values[n])) for n in names} for name, o in outcomes.items()},
        "distance": bench.kept(f"distances {main.name} {other.name} {scale:g} x {sizes.few}", [main.name, other.name],
                               lambda: _distances(bench.pair, ways, sizes.few)),
        "scales": list(sizes.scales), "sweep": [asdict(e) for e in sweep],
        "same_reward_at": crossing(sizes.scales, [e.mean for e in sweep], target.of(main.reward).mean),
    }  # fmt: skip


def _distances(pair: Pair, ways: dict[str, Way], seeds: int) -> dict:
    """How far each way's pictures are from those of `other at 1`, same prompt and noise."""
    made = {name: [p.movedim(1, -1) for p in pair.pictures(way, seeds)] for name, way in ways.items()}
    target = made.pop("other at 1")
    distances = {name: [d for a, b in zip(own, target) for d in picture_distance(a, b).tolist()] for name, own in made.items()}
    return {name: asdict(estimate(values)) for name, values in distances.items()}


def _seed(bench: Bench, sizes: Sizes, reward: str, expert: Expert) -> dict:
    outcomes = [bench(rlg(expert.name, float(w)), sizes.few) for w in (0, 1, 2)]
    values = {f"{w}": asdict(o.of(reward)) for w, o in enumerate(outcomes)}
    steps = [asdict(paired(b.values[reward], a.values[reward])) for a, b in zip(outcomes, outcomes[1:])]
    correct = [asdict(o.of(CORRECT)) for o in outcomes]
    return {"name": expert.name, "reward": reward, "values": values, "steps": steps, "correct": correct}


def report(data: dict, figures: Figures) -> list[str]:
    lines = ["## KL coefficient and w: the theorem's prediction", ""]
    if not data["coefficients"]:
        lines.append("No adapter is trained with a second KL coefficient here.")
    for part in data["coefficients"]:
        lines += _coefficient(part, figures)
    return [*lines, *_seeds(data["seeds"])]


def _coefficient(part: dict, figures: Figures) -> list[str]:
    reward, (beta, other), scale = part["reward"], part["betas"], number(part["scale"])
    labels = {
        "base": "base", "main at 1": f"beta {number(beta)}, w = 1", "main at w": f"beta {number(beta)}, w = {scale}",
        "other at 1": f"beta {number(other)}, w = 1",
    }  # fmt: skip
    names = list(dict.fromkeys((reward, CORRECT, DIVERSITY)))
    body = [
        [labels[name], *(told(values[n]) for n in names), told(part["distance"][name]) if name in part["distance"] else "-"]
        for name, values in part["values"].items()
    ]
    head = ["", *(TITLES[n] for n in names), "distance to the last row's pictures"]
    said = f"Reward {reward}, an adapter trained with beta {number(beta)} and one with {number(other)}"
    lines = [f"{said}; the theorem puts the second at w = {scale} of the first.", *table(head, body)]
    lines += [f"- {sentence}" for sentence in _verdict(part, labels)]
    target = part["values"]["other at 1"][reward]["mean"]
    line = level(part["scales"], target, labels["other at 1"])
    curves = [curve(part["scales"], part["sweep"], f"RLG, beta {number(beta)}"), line]
    panel = Panel(curves, TITLES[reward], "w", "", {part["scale"]: "predicted"})
    return [*lines, *figures.plot(f"kl-{part['other']}", "reward over w against another KL coefficient", [panel])]


def _verdict(part: dict, labels: dict[str, str]) -> list[str]:
    reward, distance = part["reward"], part["distance"]
    off, plain = (part["over_other"][name][reward] for name in ("main at w", "main at 1"))
    nearest = min(distance, key=lambda name: distance[name]["mean"])
    where = part["same_reward_at"]
    return [
        f"The same reward within error, as predicted: {yes(read(off).sign == 0)} (difference {signed(off)}; at w = 1 it is "
        f"{signed(plain)}).",
        f"Nearer to it in reward than w = 1: {yes(abs(off['mean']) < abs(plain['mean']))}.",
        "The first reaches the second's reward at " + (f"w = {where:.2f}." if where == where else "no w of the sweep."),
        f"Picture by picture the nearest to {labels['other at 1']} is {labels[nearest]}.",
    ]


def _seeds(rows: list[dict]) -> list[str]:
    if not rows:
        return ["", "No adapter has other training seeds here."]
    body = [
        [row["name"], row["reward"], *map(told, row["values"].values()), *map(signed, row["steps"]), told(row["correct"][-1])]
        for row in rows
    ]
    head = ["adapter", "reward", "w = 0", "w = 1", "w = 2", "0 to 1", "1 to 2", "fully correct at w = 2"]
    rising = [row["name"] for row in rows if all(read(step).sign == 1 for step in row["steps"])]
    lines = ["", "### Training seeds", "", *table(head, body)]
    return [*lines, f"- The reward rises from w = 0 to 1 and from 1 to 2, beyond error, for {len(rising)} of {len(rows)} adapters."]
