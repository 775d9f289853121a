"""Measures the parts, keeps their numbers beside the page, and writes the page from all numbers there are."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

from rlg_core.report.plot import number
from rlg_core.rewards.scenes import Prompt, all_prompts
from rlg_core.statistics import LEVEL, Estimate, holm

from . import auto, cfg, experts, findings, implicit, kl, scales, schedules
from .measure import Archive, Bench, OutOfTime
from .page import TITLES, Figures, listed, table, told, yes
from .pair import SAMPLER, SCHEDULER, Pair
from .scores import CORRECT
from .sizes import Sizes
from .ways import MODELS, find_experts

PARTS = {
    "cfg": cfg,
    "scales": scales,
    "kl": kl,
    "experts": experts,
    "schedules": schedules,
    "implicit": implicit,
    "auto": auto,
}
SETUP, ARCHIVE = "setup", "pictures.json.gz"
DIFFERENCES = ("steps", "difference", "diversity_over_base")
"""Names in the JSON files below which differences lie, besides those that begin with `over_`."""


def run(
    host: SimpleNamespace,
    version: str,
    sizes: Sizes,
    page: Path,
    parts: Sequence[str],
    say: Callable[[str], None],
    until: float | None = None,
    fresh: bool = False,
    models: Path = MODELS,
) -> None:
    """Measures `parts` until the time `until`, then writes `page` from them and from what is beside it."""
    found = find_experts(models, models.parent / "logs")
    if not found:
        raise SystemExit(f"No RL model lies in {models}: train one with `python demo/train.py rl brightness`.")
    pair = Pair(host, found, prompts_of(sizes), sizes.steps, models)
    figures = Figures(page)
    bench = Bench(pair, Archive(figures.folder / ARCHIVE), say, fresh, models, until)
    for name in parts:
        say(f"measuring {name}")
        try:
            data = PARTS[name].measure(bench, sizes)
        except OutOfTime:
            say(f"out of time: {name} stays as it was")
            continue
        write(figures, name, data)
        if name == "scales" and bench.has_time:
            scales.draw_sheets(bench, sizes, data["shown"], figures)
    write(figures, SETUP, setup(pair, sizes, version))
    page.write_text(re.sub(r"\n{3,}", "\n\n", "\n".join(written(figures))) + "\n", encoding="utf-8")


def prompts_of(sizes: Sizes) -> list[Prompt]:
    """The prompts, spread over all of them where they are fewer."""
    return all_prompts()[:: max(1, 54 // sizes.prompts)][: sizes.prompts]


def write(figures: Figures, name: str, data: dict) -> None:
    (figures.folder / f"{name}.json").write_text(json.dumps(rounded(data), indent=1) + "\n", encoding="utf-8")


def rounded(data):
    """Floats to five digits: smaller files, no false precision."""
    if isinstance(data, dict):
        return {name: rounded(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [rounded(value) for value in data]
    return float(f"{data:.5g}") if isinstance(data, float) else data


def setup(pair: Pair, sizes: Sizes, version: str) -> dict:
    return {
        "version": version,
        "sizes": asdict(sizes),
        "prompts": len(pair.prompts),
        "codec_error": pair.codec_error(),
        "experts": [{"name": e.name, "reward": e.reward, "beta": e.beta} for e in pair.experts.values()],
    }


def written(figures: Figures) -> list[str]:
    """The page, from the JSON files."""
    files = {name: figures.folder / f"{name}.json" for name in (SETUP, *PARTS)}
    data = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items() if path.is_file()}
    lines = [*head(data[SETUP]), *certainty({name: data[name] for name in PARTS if name in data})]
    if "scales" in data:
        lines += verdicts(data["scales"])
    for name, part in PARTS.items():
        if name in data:
            lines += ["", *part.report(data[name], figures)]
    missing = [name for name in PARTS if name not in data]
    return [*lines, "", f"Not measured yet: {listed(missing)}."] if missing else lines


HEAD = """# Evidence

What the scale does, measured on the demo pair in ComfyUI with this pack's nodes: `python dev.py evidence` makes this
page, its plots and the numbers in `evidence/*.json`. Every sentence with a result is computed from those numbers.

- ComfyUI {version}, {sampler}, {scheduler}, {steps} steps, CFG 1 (as in RL training) where nothing else is said.
- {prompts} prompts, {seeds} pictures each in the sweeps over w and CFG ({pictures} per scale), {few} elsewhere. All
  ways of sampling start from the same noise, so differences are taken picture by picture. `evidence/{archive}` has the
  numbers of every picture.
- Values are means with 95 % confidence intervals for other captions of this kind: each caption counts once (Student's
  t). *Beyond error*: the interval of the difference leaves out zero.
- Brightness is mean luma; compressibility minus the kilobytes of a JPEG at quality 95; composition a program's dense
  score of number, colour and shape; *fully correct* its yes or no. Diversity is the mean distance of a prompt's
  pictures, shift the distance from the base's picture of the same noise (root mean square, 0 to 1).
- Pictures are decoded by the formula that the demo's VAE computes; the two differ by at most {codec_error:.1e}.
- The demo pair is a toy: it shows how the method behaves, not what it will do to another model.
"""


def head(data: dict) -> list[str]:
    facts = {
        **data["sizes"],
        **data,
        "pictures": data["prompts"] * data["sizes"]["seeds"],
        "archive": ARCHIVE,
        "sampler": SAMPLER,
        "scheduler": SCHEDULER,
    }
    return [HEAD.format(**facts)]


OLD = """- Still with the older, too narrow intervals: {parts}. They were last measured when pictures, not captions,
  counted as independent, and only the summaries were kept. Pictures of a caption resemble each other.
"""


def certainty(parts: dict[str, dict]) -> list[str]:
    """What the intervals are of, and how many differences could be there by chance."""
    found = {name: list(differences(data)) for name, data in parts.items()}
    old = [name for name, those in found.items() if any(math.isinf(e.degrees) for e in those)]
    every = [e for those in found.values() for e in those]
    beyond, held = sum(e.sign != 0 for e in every), sum(holm([e.p_value for e in every]))
    said = (
        f"- {len(every)} differences are tested: {beyond} are beyond error one by one, where {LEVEL:.0%} intervals "
        f"would let {(1 - LEVEL) * len(every):.0f} through if nothing differed, and {held} hold together (Holm)."
    )
    return [*([OLD.format(parts=listed(old)).rstrip()] if old else []), said]


def differences(data, inside: bool = False) -> Iterator[Estimate]:
    """Every estimate of a difference in the numbers of a part, but those of a way with itself."""
    if isinstance(data, dict) and {"mean", "half", "n"} <= data.keys():
        estimate = Estimate(**data)
        if inside and estimate.half:
            yield estimate
    elif isinstance(data, (dict, list)):
        for name, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from differences(value, inside or str(name).endswith(DIFFERENCES) or str(name).startswith("over_"))


def verdicts(data: dict) -> list[str]:
    """One line an adapter."""
    rows = []
    for name, adapter in data["adapters"].items():
        reward, found = adapter["reward"], adapter["rows"]
        rising = findings.rises(reward, found)
        cells = [row["rlg"] for w in (0.0, 1.0, 2.0) if (row := findings.at(found, w))]
        best = max(found, key=lambda row: row["rlg"][reward]["mean"])
        rewards, correct = (told(cell[reward]) for cell in cells), (told(cell[CORRECT], 2) for cell in cells[::2])
        rows.append([name, TITLES[reward], *rewards, yes(rising), number(best["scale"]), *correct])
    columns = [
        "adapter",
        "its reward",
        "w = 0",
        "w = 1",
        "w = 2",
        "rises 0 to 2",
        "best w",
        "fully correct at 0",
        "at 2",
    ]
    return ["", "## In short", *table(columns, rows)]
