"""What the rows of a sweep over w say: sentences, each computed from the numbers."""

from __future__ import annotations

from rlg_core.report.plot import number

from .page import DIVERSITY, STRUCTURE, TITLES, WORDS, crossed, listed, read, signed, told, yes
from .scores import CORRECT, SHIFT

JUDGED = "composition"
"""The reward that is a program's verdict: at most 1, and nearly yes or no for a single picture."""

BROKEN = 0.1
"""A scale counts as broken where this much fewer scenes are right than at w = 0, beyond the interval."""


def at(rows: list[dict], scale: float) -> dict | None:
    return next((row for row in rows if row["scale"] == scale), None)


def strengths(rows: list[dict]) -> list[dict]:
    """The rows that LoRA strength was measured for too, where it is not RLG itself."""
    return [row for row in rows if row["lora"] and row["scale"] not in (0, 1)]


def sentences(adapter: dict, cfg: list[dict]) -> list[str]:
    """What the rows say, each sentence computed."""
    reward, rows = adapter["reward"], adapter["rows"]
    found = [_monotone(reward, rows), *_ceiling(reward, rows), *_instead(reward, rows), *_interpolation(reward, rows)]
    found += [_extrapolation(reward, rows), _breaking(rows), _others(reward, rows), _diversity(rows)]
    if at(rows, -1.0):
        change = at(rows, -1.0)["over_base"][reward]
        found.append(f"At w = -1 the reward is {WORDS[read(change).sign]} (against the base {signed(change)}).")
    if strengths(rows):
        found.append(_against_lora(reward, rows))
    return [*found, _against_cfg(adapter, cfg)]


def rises(reward: str, rows: list[dict]) -> bool:
    """Whether the reward rises from w = 0 to 1 and from 1 to 2, each beyond its error, and falls nowhere between."""
    steps = [row["over_previous"][reward]["mean"] for row in rows if 0 < row["scale"] <= 2]
    return min(steps) > 0 and all(read(at(rows, w)["over_one_less"][reward]).sign == 1 for w in (1.0, 2.0))


def _monotone(reward: str, rows: list[dict]) -> str:
    flat = [
        number(row["scale"]) for row in rows if 0 < row["scale"] <= 2 and read(row["over_previous"][reward]).sign != 1
    ]
    start, end = (told(at(rows, w)["rlg"][reward]) for w in (0.0, 2.0))
    first, second = (signed(at(rows, w)["over_one_less"][reward]) for w in (1.0, 2.0))
    but = f"; not beyond error on the way to w = {listed(flat)}" if flat else ""
    return (
        f"Rises from w = 0 past 1 to 2, beyond error, and falls nowhere between: {yes(rises(reward, rows))} "
        f"({start} to {end}: {first} to w = 1, {second} from there{but})."
    )


def _ceiling(reward: str, rows: list[dict]) -> list[str]:
    """How much of what the base misses is made up, where a reward has a highest value."""
    if reward != JUDGED:
        return []
    base = at(rows, 0.0)["rlg"][reward]["mean"]
    one, two = (signed(at(rows, w)["over_base"][reward]) for w in (1.0, 2.0))
    return [
        f"The score cannot exceed 1: of the {number(1 - base)} that the base misses, the RL model makes up {one}, "
        f"w = 2 {two}; the nearer to 1, the fewer pictures are left to tell scales apart."
    ]


def _instead(reward: str, rows: list[dict]) -> list[str]:
    """Where the reward turns before w = 2: what goes on growing."""
    best, two = (
        max((row for row in rows if row["scale"] >= 0), key=lambda row: row["rlg"][reward]["mean"]),
        at(rows, 2.0),
    )
    if best["scale"] >= 2:
        return []
    names = [n for n in two["rlg"] if n not in (reward, CORRECT, SHIFT, DIVERSITY, STRUCTURE)]
    moved = [
        f"{TITLES[n]} {number(best['rlg'][n]['mean'])} to {number(two['rlg'][n]['mean'])}" for n in (SHIFT, *names)
    ]
    return [f"It turns at w = {number(best['scale'])}; what goes on changing from there to w = 2: {listed(moved)}."]


def _interpolation(reward: str, rows: list[dict]) -> list[str]:
    half, one = at(rows, 0.5), at(rows, 1.0)
    if not half:
        return []
    if not read(one["over_base"][reward]).sign:
        return [
            "Interpolation: the RL model itself gains no more than its error over the base "
            f"({signed(one['over_base'][reward])})."
        ]
    part, gain = (signed(row["over_base"][reward]) for row in (half, one))
    return [f"Interpolation: w = 0.5 gains {part} over the base, the RL model {gain}."]


def _extrapolation(reward: str, rows: list[dict]) -> str:
    best = max(rows, key=lambda row: row["rlg"][reward]["mean"])
    edge = ", the end of the range" if best is rows[-1] else ""
    gain, own = (signed(row["over_base"][reward]) for row in (best, at(rows, 1.0)))
    return (
        f"Extrapolation: the highest reward is at w = {number(best['scale'])}{edge} ({told(best['rlg'][reward])}): "
        f"{gain} over the base, where the RL model gains {own}."
    )


def _breaking(rows: list[dict]) -> str:
    base, last = at(rows, 0.0)["rlg"][CORRECT], rows[-1]
    lost = {row["scale"]: row["over_base"][CORRECT] for row in rows if row["scale"] > 0}
    broken = [scale for scale, change in lost.items() if change["mean"] + change["half"] < -BROKEN]
    if not broken:
        return (
            f"Where it breaks: nowhere up to w = {number(last['scale'])}: {told(last['rlg'][CORRECT])} of the scenes "
            f"are fully correct there, {told(base)} at w = 0 (broken means {BROKEN:.0%} of all scenes fewer, beyond "
            "the error bar)."
        )
    first = broken[0]
    return (
        f"Where it breaks: at w = {number(first)} more than {BROKEN:.0%} of all scenes are no longer fully correct, "
        f"beyond the error bar ({told(base)} at w = 0, {told(at(rows, first)['rlg'][CORRECT])} there)."
    )


def _others(reward: str, rows: list[dict]) -> str:
    row = at(rows, 2.0)
    names = [name for name in row["over_base"] if name not in (reward, CORRECT, SHIFT)]
    changes = [f"{TITLES[n]} {WORDS[read(row['over_base'][n]).sign]} ({signed(row['over_base'][n])})" for n in names]
    return f"The other rewards at w = 2, against the base: {listed(changes)}."


def _diversity(rows: list[dict]) -> str:
    changes = {row["scale"]: row["diversity_over_base"] for row in rows if row["scale"] in (1, 2, 4)}
    said = [f"{WORDS[read(c).sign]} at w = {number(scale)} ({signed(c)})" for scale, c in changes.items()]
    return f"Diversity within a prompt, against {told(at(rows, 0.0)['rlg'][DIVERSITY])} at w = 0: {listed(said)}."


def _against_lora(reward: str, rows: list[dict]) -> str:
    compared = strengths(rows)
    parts = []
    for name in dict.fromkeys((reward, CORRECT)):
        where = {s: [number(r["scale"]) for r in compared if read(r["over_lora"][name]).sign == s] for s in WORDS}
        said = [f"{WORDS[sign]} at w = {listed(scales)}" for sign, scales in where.items() if scales]
        parts.append(f"{TITLES[name]} {listed(said)}")
    largest = max(compared, key=lambda r: abs(r["over_lora"][reward]["mean"]))
    return (
        f"Against LoRA strength scaled to w (one evaluation, first order), RLG has {'; '.join(parts)}. The largest "
        f"difference in reward is {signed(largest['over_lora'][reward])}, at w = {number(largest['scale'])}."
    )


def _against_cfg(adapter: dict, cfg: list[dict]) -> str:
    reward, best = adapter["reward"], adapter["as_cfg"]
    if best["cfg"] == cfg[0]["cfg"]:
        told_base = told(cfg[0]["values"][reward])
        return f"Against CFG alone: no CFG scale raises this reward above CFG {number(best['cfg'])}'s {told_base}."
    return (
        f"Against CFG alone: the base's best CFG on half of the seeds is {number(best['cfg'])}, with "
        f"{told(best['reward'])} on the other half; RLG at CFG 1 reaches that, from the same noise, at {crossed(best)}."
    )
