"""The composition part of the evidence made by a sweep, beside what the evidence's own code makes.

The evidence samples all prompts as one batch, for which the noise of a seed is drawn as a whole. A sweep samples prompt
by prompt: there *Latent From Batch* takes the prompt's item out of a batch, and the host draws the noise that this item
has in it. Each value of the sweep's prompt axis sets the text and the item together.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from devtools.console import end_in_order
from devtools.paths import ROOT
from rlg_core.rewards.scenes import Prompt
from sweep.store import Store

from .measure import Archive, Bench, Outcome
from .page import TITLES, table
from .pair import SAMPLER, SCHEDULER, SEED, Pair
from .scores import CORRECT, score
from .sizes import Sizes
from .ways import ADAPTERS, PREFIX, find_experts, rlg

WORKFLOW = ROOT / "workflows" / "api" / "RLG One Picture.json"
EXPERT, SCALES = "composition", (0.0, 1.0, 2.0)
REWARDS = {"composition": "scene judge (demo)", "brightness": "brightness (demo)", "jpeg": "JPEG compressibility"}
LEVELS, SHARE = 1, 0.01
"""A picture that was sampled beside others may be off by so many levels of 255, in so many of its values: the host's
matrix products round otherwise."""

SLACK = 0.01
"""Two scores of one picture differ by less: the evidence keeps four digits, and a JPEG, of which kilobytes count, comes
out a few bytes longer or shorter by rounding."""

RIGHT = 0.5
"""The judge's score is above this where number, colour and shape are all as asked, and only there."""

Key = tuple[int, int, float]
"""Which picture: the prompt and the seed, both counted from 0, and the scale."""


@dataclass(frozen=True)
class Made:
    """A picture as a PNG file has it, (H, W, 3), and the numbers that it was given."""

    pixels: np.ndarray
    values: Mapping[str, float]


def workflow(sizes: Sizes) -> dict[str, Any]:
    """Return the shipped graph with the evidence's settings and an item of a batch as its latent."""
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    graph["rl_adapter"]["inputs"]["lora_name"] = f"{ADAPTERS}/{PREFIX}{EXPERT}"
    graph["latent"]["inputs"]["batch_size"] = sizes.prompts
    item = {"samples": ["latent", 0], "batch_index": 0, "length": 1}
    graph["item"] = {"class_type": "LatentFromBatch", "inputs": item}
    settings = {"steps": sizes.steps, "cfg": 1.0, "sampler_name": SAMPLER, "scheduler": SCHEDULER}
    graph["sampler"]["inputs"] |= {"latent_image": ["item", 0], **settings}
    return graph


def sweep_file(prompts: Sequence[Prompt], sizes: Sizes) -> dict[str, Any]:
    """Return the sweep of that graph: prompts with their items, the evidence's first seeds, and the scales."""
    rows = [{"name": str(prompt), "LatentFromBatch.batch_index": k} for k, prompt in enumerate(prompts)]
    inputs = {
        "scale": {"at": "RLGApply.scale", "values": list(SCALES)},
        "seed": {"at": "KSampler.seed", "first": SEED, "count": sizes.few},
        "prompt": {"at": "Positive prompt.text", "values": rows},
    }
    return {"inputs": inputs, "rewards": REWARDS}


def swept(folder: Path, prompts: Sequence[Prompt], sizes: Sizes) -> dict[Key, Made]:
    """Run the sweep as a person does, in `folder`, and return its pictures. Ends the program where the sweep fails."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files, results = (folder / "workflow.json", folder / "sweep.yaml"), folder / "results"
    files[0].write_text(json.dumps(workflow(sizes), indent=1), encoding="utf-8")
    files[1].write_text(yaml.safe_dump(sweep_file(prompts, sizes), sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "sweep", *map(str, files), "--results", str(results)]
    with subprocess.Popen(command, cwd=ROOT) as sweep:
        try:
            ended = sweep.wait()
        finally:
            sweep.terminate()  # where this program is ended first: the sweep ends its workers
    if ended:
        raise SystemExit(f"The sweep in {folder} ended with status {ended}.")
    return dict(read(Store(str(results)), [str(prompt) for prompt in prompts]))


def read(store: Store, prompts: Sequence[str]) -> Iterator[tuple[Key, Made]]:
    """Yield the pictures of a results folder."""
    for row in store.rows():
        picture = Image.open(io.BytesIO(store.read_file(row["picture"]))).convert("RGB")
        values = {name: row[name] for name in REWARDS} | {CORRECT: float(row["composition"] > RIGHT)}
        yield (prompts.index(row["prompt"]), row["seed"] - SEED, row["scale"]), Made(np.asarray(picture), values)


def sampled(pair: Pair, seeds: int) -> dict[Key, Made]:
    """Return the same pictures as the evidence samples and judges them, with the host's VAE for their files."""
    found = {}
    for seed in range(seeds):
        for scale in SCALES:
            latents = pair.latents(rlg(EXPERT, scale), SEED + seed)
            values = score(pair.decoded(latents), pair.prompts)
            with torch.inference_mode():
                pictures = pair.vae.decode(latents)
            for k, picture in enumerate(pictures):
                pixels = np.clip(255.0 * picture.numpy(), 0, 255).astype(np.uint8)
                found[k, seed, scale] = Made(pixels, {name: own[k] for name, own in values.items()})
    return found


@dataclass(frozen=True)
class Compared:
    """Pictures of the sweep (`made`), the same ones sampled here (`own`), and their kept numbers by scale, if any."""

    made: Mapping[Key, Made]
    own: Mapping[Key, Made]
    kept: Mapping[float, Outcome]

    def means(self, scale: float, name: str) -> list[float]:
        """Return a figure three times: as the evidence keeps it (NaN: it does not), as sampled here, by the sweep."""
        kept = self.kept[scale].values[name] if scale in self.kept else [math.nan]
        parts = [[m.values[name] for key, m in part.items() if key[2] == scale] for part in (self.own, self.made)]
        return [sum(values) / len(values) for values in (kept, *parts)]

    def off(self, key: Key) -> np.ndarray:
        """Return by how many of 255 levels each value of the sweep's picture is off."""
        return np.abs(self.made[key].pixels.astype(int) - self.own[key].pixels)

    def is_explained(self, key: Key) -> bool:
        """Tell whether rounding explains how two pictures differ; where they do not, neither may their scores."""
        off, made, own = self.off(key), self.made[key].values, self.own[key].values
        if off.any():
            return off.max() <= LEVELS and (off > 0).mean() <= SHARE
        return all(abs(made[name] - own[name]) < SLACK for name in own)

    def table(self) -> list[str]:
        """Return the figures."""
        rows = []
        for scale, name in product(SCALES, (*REWARDS, CORRECT)):
            kept, own, made = self.means(scale, name)
            shown = "-" if math.isnan(kept) else f"{kept:.4f}"
            rows.append([scale, TITLES[name], shown, f"{own:.4f}", f"{made:.4f}", f"{made - own:+.1e}"])
        return table(["w", "mean", "as kept for EVIDENCE.md", "sampled here", "by the sweep", "sweep - here"], rows)

    def told(self) -> list[str]:
        """Return how the pictures compare."""
        most = [int(self.off(key).max()) for key in self.own]
        flips = [key for key, own in self.own.items() if self.made[key].values[CORRECT] != own.values[CORRECT]]
        strays = [key for key in self.own if not self.is_explained(key)]
        return [
            f"{len(most)} pictures, {most.count(0)} equal to the bit as PNG files.",
            f"The largest difference of a value is {max(most)} of 255.",
            f"{len(flips)} are fully correct in one and not in the other.",
            f"{len(strays)} differ by more than rounding explains (prompt, seed, w): {strays[:8]}.",
        ]


def main(
    start: Callable[[], SimpleNamespace], sizes: Sizes, prompts: Sequence[Prompt], folder: Path, archive: Path
) -> int:
    """Run the sweep, sample the same pictures in a host that `start` gives, and print both; 1 where they differ."""
    end_in_order()
    made = swept(folder, prompts, sizes)
    pair = Pair(start(), [expert for expert in find_experts() if expert.name == EXPERT], prompts, sizes.steps)
    kept = Bench(pair, Archive(archive), print, until=0.0).in_time([(w, rlg(EXPERT, w)) for w in SCALES], sizes.few)
    found = Compared(made, sampled(pair, sizes.few), kept)
    print("\n".join([*found.table(), *found.told()]))
    return int(not all(map(found.is_explained, found.own)))
