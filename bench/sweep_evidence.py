"""`python -m bench.sweep_evidence`: whether a sweep makes the pictures that `dev.py evidence` measures.

The same prompts, seeds and scales are sampled by a sweep's worker through a server and by the evidence's own code in
this process, there one prompt alone and as it really does, all 54 prompts in one batch. Told is how many pictures are
equal to the bit, as PNG files have them, and the largest difference of a pixel. Status 1 where one prompt alone is not
equal.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from demo.evidence.pair import SEED, Pair
from demo.evidence.ways import find_experts, rlg
from devtools import hosts
from devtools.server import Server
from rlg_core.rewards.scenes import all_prompts
from support.graphs import changed, load
from support.sweeping import plan_of, sweep_of
from sweep.worker import Job, Worker

from . import host

EXPERT, STEPS, SCALES, SEEDS = "composition", 10, (0.0, 1.0, 2.0), (SEED, SEED + 1)
PROMPTS = (0, 22)
"""Which of the evidence's prompts are compared: the first of its batch and one in the middle."""

Pictures = Mapping[tuple[int, int, float], np.ndarray]
"""By prompt, seed and scale."""


def main() -> int:
    argparse.ArgumentParser(prog="python -m bench.sweep_evidence", description=__doc__.split("\n")[0]).parse_args()
    made = {
        f"a sweep, {'in one run' if together else 'one scale after the other'}": swept(together)
        for together in (False, True)
    }
    started, prompts = host.start(), all_prompts()
    experts = [expert for expert in find_experts() if expert.name == EXPERT]
    alone = {}
    for k in PROMPTS:
        pair = Pair(started, experts, [prompts[k]], STEPS)
        alone |= {(k, *key): sampled(pair, 0, *key) for key in keys()}
    whole = Pair(started, experts, prompts, STEPS)
    batch = {(k, *key): sampled(whole, k, *key) for k in PROMPTS for key in keys()}
    print(f"ComfyUI {host.version()}, {EXPERT}, {STEPS} steps, {len(alone)} pictures\n")
    print("| | prompt | equal to the evidence's, one prompt alone | to the evidence's, all prompts in a batch |")
    print("| --- | --- | --- | --- |")
    for name, pictures in made.items():
        for k in PROMPTS:
            print(f"| {name} | {k + 1} of {len(prompts)} | {told(pictures, alone, k)} | {told(pictures, batch, k)} |")
    first = next(iter(made.values()))
    return int(any((first[key] != alone[key]).any() for key in alone))


def keys() -> list[tuple[int, float]]:
    return [(seed, scale) for seed in SEEDS for scale in SCALES]


def swept(together: bool) -> Pictures:
    """Return what a sweep's worker makes."""
    names = {str(all_prompts()[k]): k for k in PROMPTS}
    graph = changed(
        changed(load(), "KSampler", steps=STEPS, cfg=1.0), "RLGAdapterLoader", lora_name=f"rlg-demo/rl-{EXPERT}"
    )
    content = sweep_of(
        scale={"at": "RLGApply.scale", "values": list(SCALES)},
        seed={"at": "KSampler.seed", "values": list(SEEDS)},
        prompt={"at": "Positive prompt.text", "values": list(names)},
    )
    found = {}
    with tempfile.TemporaryDirectory(prefix="rlg-evidence-") as name:
        plan = plan_of(Path(name), graph, content | {"run": {"together": together}})
        with Server(hosts.from_environment(), Path(name) / "server") as server:
            worker = Worker(Job(plan.recipe, f"{name}/results", 600.0, {}), server.url)
            for unit in plan.units():
                result = worker.run(unit, keeps=False)
                assert result.error is None, result.error
                for row in result.rows:
                    picture = Image.open(io.BytesIO(result.pictures[row["picture"]]))
                    found[names[row["prompt"]], row["seed"], row["scale"]] = np.asarray(picture.convert("RGB"))
    return found


def sampled(pair: Pair, prompt: int, seed: int, scale: float) -> np.ndarray:
    """Return a picture of the evidence's, decoded by the host's VAE as a graph decodes it."""
    latents = pair.latents(rlg(EXPERT, scale), seed)[prompt : prompt + 1]
    with torch.inference_mode():
        picture = pair.vae.decode(latents)[0]
    return np.clip(255.0 * picture.numpy(), 0, 255).astype(np.uint8)


def told(pictures: Pictures, others: Pictures, prompt: int) -> str:
    """Return how many pictures of a prompt are equal, and how far the others are off."""
    own = [key for key in pictures if key[0] == prompt]
    differences = [int(np.abs(pictures[key].astype(int) - others[key].astype(int)).max()) for key in own]
    return f"{differences.count(0)} of {len(own)}" + (
        f", largest difference {max(differences)} of 255" if any(differences) else ""
    )


if __name__ == "__main__":
    sys.exit(main())
