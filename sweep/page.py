"""The report as one HTML file without anything outside it."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from rlg_core.report.plot import number
from rlg_core.statistics import Estimate

from .axis import Axis
from .board import counted, lasting
from .choose import saved
from .spec import EVERYTHING, Spec
from .statistics import Choice

if TYPE_CHECKING:
    from .figures import Section

STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #26282e; background: #fff; max-width: 1180px }
body { margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-top: 1px solid #dee0e6; padding-top: 1.5rem }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0 } .sheet { overflow-x: auto }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #dee0e6; white-space: nowrap }
th:first-child, td:first-child, .texts th, .texts td { text-align: left } .texts td { white-space: normal }
tr.chosen { background: #e8f2f9; font-weight: 600 }
.answer { font-size: 1.15rem } .note { color: #6b6b76; font-size: .9rem } .bad { color: #a83200 }
"""


def html(
    manifest: Mapping, spec: Spec, sections: Sequence[Section], rows: Sequence[Mapping], failures: Sequence[Mapping]
) -> str:
    """Return the page."""
    title = f"Sweep of {len(spec.scale.values)} scales"
    body = [f"<h1>{title}</h1>", _amount(rows, failures, manifest)]
    body += [part for section in sections for part in _section(section, spec)]
    body += [*_failures(failures), *_about(manifest, spec)]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head><body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _amount(rows: Sequence[Mapping], failures: Sequence[Mapping], manifest: Mapping) -> str:
    units = len({row["unit"] for row in rows})
    seconds = lasting(sum(row["seconds"] for row in rows))
    planned = manifest["units"]
    places = len({row["worker"] for row in rows})
    told = f"{units} units, {len(rows)} pictures, {seconds} of sampling on {counted(places, 'machine')}."
    if manifest["mode"] == "choose-w":
        told += " " + saved(
            len({(row["unit"], row["scale"]) for row in rows}), planned * len(manifest["spec"]["scale"]["values"])
        )
    elif units < planned:
        told = f'<strong class="bad">Not complete: {units} of {planned} units.</strong> ' + told
    return f"<p>{told}" + (f' <strong class="bad">{len(failures)} units failed.</strong>' if failures else "") + "</p>"


def _section(section: Section, spec: Spec) -> list[str]:
    parts = [f"<h2>{escape(section.name)}</h2>"] if section.name else []
    if section.choice:
        parts.append(f'<p class="answer">{answer(section.choice, spec.rewards[0].name, spec.scale.values)}</p>')
    for name, data in section.pictures.items():
        kind = name.partition("-")[0]
        address = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        parts.append(f'<div class="{kind}"><img alt="{escape(name)}" src="{address}"></div>')
        parts.append(f'<p class="note">{NOTES[kind]}</p>')
    for name, groups in section.rewards.items():
        parts.append(_table(name, groups, section, name == spec.rewards[0].name))
    return parts


NOTES = {
    "sheet": "One seed of some of the prompts, from the same noise at every scale.",
    "reward": "Means of the prompts' means with 95 % t intervals over prompts.",
    "pareto": "Diversity is the mean distance (root mean square, 0 to 1) between the pictures of a prompt. A scale is "
    "on the front where no other one is better in one of the two and no worse in the other.",
}


def answer(choice: Choice, reward: str, tried: Sequence[float]) -> str:
    """Return the chosen scale with its uncertainty, as a few sentences; `tried` are all scales of the sweep."""
    others = [number(scale) for scale in choice.as_good if scale != choice.scale]
    dropped = [number(scale) for scale in tried if scale not in choice.shares]
    rest = "Every other scale that was left to the end" if dropped else "Every other scale"
    parts = [
        f"<strong>w = {number(choice.scale)}</strong> has the highest mean {escape(reward)};",
        f"it is best in {choice.shares[choice.scale]:.0%} of the resamples of the prompts.",
        f"As good within error: {', '.join(others)}." if others else f"{rest} is worse beyond error.",
    ]
    if dropped:
        parts.append(
            f"Of {', '.join(dropped)} fewer pictures were made: their means are of some of the prompts and seeds."
        )
    if choice.is_end:
        parts.append("It is the largest scale that was tried: a larger one may be better still.")
    return " ".join(parts)


OF_CHOICE = ("diversity", "front", "best in")
"""Columns beside those of the reward that chooses."""


def _table(name: str, groups: Mapping[str, Mapping[float, Estimate]], section: Section, chooses: bool) -> str:
    """Return the table of a reward: a row for each scale, a column for each group of prompts."""
    head = ["scale w", *(f"{name}, {group}" for group in groups), *(OF_CHOICE if chooses else ())]
    lines = [_row("th", head)]
    for scale in groups[EVERYTHING]:
        cells = [told(found.get(scale)) for found in groups.values()] + (_of_choice(scale, section) if chooses else [])
        lines.append(_row("td", [number(scale), *cells], "chosen" if scale == section.choice.scale else ""))
    return f"<table>{''.join(lines)}</table>"


def _of_choice(scale: float, section: Section) -> list[str]:
    share = section.choice.shares.get(scale)
    is_front = "yes" if scale in section.front else ""
    return [told(section.diversity.get(scale)), is_front, "" if share is None else f"{share:.0%}"]


def _row(kind: str, cells: Iterable[str], style: str = "") -> str:
    return f'<tr class="{style}">' + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + "</tr>"


def told(found: Estimate | None) -> str:
    """Return a mean with the half width of its interval."""
    if found is None:
        return ""
    return f"{found.mean:.4g}" + (f" \u00b1 {found.half:.2g}" if found.half == found.half else "")


def _failures(failures: Sequence[Mapping]) -> list[str]:
    """Return what failed, by its message."""
    if not failures:
        return []
    causes = Counter(f"{failure.get('node_type', '')} {failure['message']}".strip() for failure in failures)
    lines = [_row("td", [cause[:300], str(count)]) for cause, count in causes.most_common(20)]
    return ["<h2>What failed</h2>", f"<table class='texts'>{_row('th', ['error', 'units'])}{''.join(lines)}</table>"]


def _about(manifest: Mapping, spec: Spec) -> list[str]:
    """Return what was swept, on what."""
    swept: list[list[Any]] = [
        [axis.name, ", ".join(axis.inputs), _listed(_shown(axis))] for axis in (spec.scale, *spec.axes)
    ]
    swept += [[reward.name, "reward", reward.reward] for reward in spec.rewards]
    lines = [_row("th", ["what", "where", "values"]), *(_row("td", cells) for cells in swept)]
    apart = manifest["apart"]
    how = f"the scales of a unit one after the other: {apart}" if apart else "all scales of a unit in one sampling run"
    pack = manifest["pack"] or "as the servers have it"
    files = ", ".join(f"{name} ({identity[:12]})" for name, identity in manifest["files"].items())
    return [
        "<h2>What was swept</h2>",
        f'<table class="texts">{"".join(lines)}</table>',
        f'<p class="note">ComfyUI {escape(manifest["host"])}; pack {escape(pack)}; {escape(how)}.</p>',
        f'<p class="note">Files: {escape(files)}</p>',
    ]


def _shown(axis: Axis) -> Sequence[Any]:
    """Return the values of an axis, a row with what it sets."""
    told = [", ".join(f"{name} {value}" for name, value in row.items()) for row in axis.rows]
    return [f"{value} ({own})" for value, own in zip(axis.values, told)] if any(told) else axis.values


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(number(v) if isinstance(v, float) else str(v) for v in values[:6]) + (
        f", ... ({len(values)} in all)" if len(values) > 6 else ""
    )
