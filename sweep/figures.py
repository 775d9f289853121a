"""What a report shows of one setting: the contact sheet, reward over the scale, reward against diversity."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from rlg_core.pictures import diversity, to_picture, to_tensor
from rlg_core.report.plot import Curve, Panel, number, plot
from rlg_core.statistics import Estimate, independent

from .sheet import contact_sheet
from .spec import EVERYTHING, PROMPT, SCALE, SEED, Spec
from .statistics import Choice, choose, clusters, complete, front
from .store import Store

if TYPE_CHECKING:
    from .report import Setting

PROMPTS, WIDTH = 6, 1500
"""Prompts on the contact sheet, and about how many pixels it is wide."""

GROUPS = 5
"""Groups of prompts that a plot has a curve for, beside the one of all prompts."""


@dataclass(frozen=True)
class Section:
    """What is shown of a setting: its choice of the scale (None without rewards), tables, and pictures as PNG."""

    name: str
    choice: Choice | None
    rewards: Mapping[str, Mapping[str, Mapping[float, Estimate]]]
    diversity: Mapping[float, Estimate]
    front: Sequence[float]
    pictures: Mapping[str, bytes]


def section(setting: Setting, spec: Spec, store: Store) -> Section:
    """Return what is shown of a setting: reward by reward, in each by group of prompts."""
    rows = setting.rows
    rewards = {reward.name: by_group(rows, reward.name) for reward in spec.rewards}
    chosen = choose(clusters(complete(rows), spec.rewards[0].name)) if spec.rewards else None
    spread = diversities(rows)
    points = pareto(spread, rewards[spec.rewards[0].name][EVERYTHING]) if spec.rewards else {}
    made = {"sheet": encoded(sheet(setting, spec, store))}
    if spec.rewards:
        made["reward"] = encoded(to_picture(plot([_over_scale(n, found, chosen) for n, found in rewards.items()])))
    if points:
        made["pareto"] = encoded(to_picture(plot([_pareto(spec.rewards[0].name, points, chosen)])))
    ending = "-" + re.sub(r"[^A-Za-z0-9.]+", "-", setting.name).strip("-") if setting.name else ""
    return Section(setting.name, chosen, rewards, spread, front(points), {n + ending: data for n, data in made.items()})


def by_group(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, dict[float, Estimate]]:
    """Return {group of prompts: {scale: mean of the column `name`}}; all prompts come first."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    parts = {EVERYTHING: rows}
    if len(groups) > 1:
        parts |= {group: [row for row in rows if row["group"] == group] for group in groups}
    return {
        group: {scale: independent(list(values.values())) for scale, values in clusters(part, name).items()}
        for group, part in parts.items()
    }


def diversities(rows: Sequence[Mapping[str, Any]]) -> dict[float, Estimate]:
    """Return {scale: mean distance between the pictures of a prompt}; empty where no prompt has two."""
    pictures: dict[tuple, list[Tensor]] = {}
    for row in rows:
        pictures.setdefault((row[SCALE], row[PROMPT]), []).append(to_tensor(Image.open(io.BytesIO(row["thumbnail"]))))
    found: dict[float, list[float]] = {}
    for (scale, _), own in sorted(pictures.items(), key=lambda item: item[0][0]):
        if len(own) > 1:
            found.setdefault(scale, []).append(diversity(torch.stack(own)))
    return {scale: independent(values) for scale, values in found.items()}


def pareto(spread: Mapping[float, Estimate], rewards: Mapping[float, Estimate]) -> dict[float, tuple[float, float]]:
    """Return {scale: (diversity, reward)}."""
    return {scale: (spread[scale].mean, rewards[scale].mean) for scale in rewards if scale in spread}


def _over_scale(name: str, groups: Mapping[str, Mapping[float, Estimate]], chosen: Choice) -> Panel:
    """One reward over the scale: a curve for all prompts and one for each of the first groups."""
    curves = [
        Curve(list(found), [i.mean for i in found.values()], group, [i.half for i in found.values()])
        for group, found in list(groups.items())[: GROUPS + 1]
    ]
    counts = {i.n for i in groups[EVERYTHING].values()}
    prompts = f"up to {max(counts)}" if len(counts) > 1 else f"{max(counts)}"
    title = f"{name}: mean and 95 % interval over {prompts} prompts" if max(counts) > 1 else name
    return Panel(curves, title, "scale w", name, {chosen.scale: f"chosen: {number(chosen.scale)}"})


def _pareto(name: str, points: Mapping[float, tuple[float, float]], chosen: Choice) -> Panel:
    """A reward against diversity: a line through the scales in their order, and dots on those of the front.

    The ends of the front and the chosen scale are named; the names of all would cover each other.
    """
    best = front(points)
    path = Curve(*zip(*(points[scale] for scale in sorted(points))), "all scales")
    dots = Curve(*zip(*(points[scale] for scale in best)), "Pareto front", joined=False)
    marks = {points[scale][0]: f"w {number(scale)}" for scale in (best[0], best[-1], chosen.scale)}
    return Panel([path, dots], "Reward against diversity", "diversity: mean distance of two pictures", name, marks)


def sheet(setting: Setting, spec: Spec, store: Store) -> Image.Image:
    """The contact sheet: prompts from all groups down, scales from left to right, one seed."""
    shown = _shown(setting.rows)
    scales = sorted({row[SCALE] for row in shown})
    prompts = list(dict.fromkeys(row[PROMPT] for row in shown))
    at = {(row[PROMPT], row[SCALE]): row["picture"] for row in shown}
    cell = max(96, min(256, WIDTH // len(scales)))
    blank = Image.new("RGB", (cell, cell), "#eeeeee")
    rows = [[_picture(store, at[p, s]) if (p, s) in at else blank for s in scales] for p in prompts]
    return contact_sheet(
        rows, [(f"w {number(s)}", _mean(setting, spec, s)) for s in scales], setting.name, prompts, cell
    )


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of a few prompts, spread over the groups, each with its first seed and first item."""
    most = {}
    for row in rows:
        if row["item"] == 0:
            most.setdefault((row["group"], row[PROMPT], row[SEED]), []).append(row)
    whole = sorted(most.items(), key=lambda item: -len(item[1]))
    chosen: dict[str, list] = {}
    for (_, prompt, _), own in whole:
        chosen.setdefault(prompt, own)
    by_group: dict[str, list] = {}
    for own in chosen.values():
        by_group.setdefault(own[0]["group"], []).append(own)
    turns = [own for turn in zip_longest(*by_group.values()) for own in turn if own]
    return [row for own in turns[:PROMPTS] for row in own]


def _mean(setting: Setting, spec: Spec, scale: float) -> str:
    """What stands under a scale: the mean of the first reward."""
    if not spec.rewards:
        return ""
    scores = [row[spec.rewards[0].name] for row in setting.rows if row[SCALE] == scale]
    return f"{spec.rewards[0].name} {number(sum(scores) / len(scores))}"


def _picture(store: Store, name: str) -> Image.Image:
    return Image.open(io.BytesIO(store.read_file(name)))


def encoded(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()
