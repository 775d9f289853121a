"""How far equal graphs make equal latents: `python -m bench.determinism`, with RLG_HOST_PATH as for the benchmark.

A graph is run again, in another process, on two threads, and as an item of a batch, each with RLG and plain: guidance
promises what the host's plain graph keeps. Ends with status 1 where guidance differs and the plain graph does not.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import torch
from torch import Tensor

from support import tiny
from support.guiding import guide
from support.sampling import Sampling

from . import host

STEPS, ITEMS = 8, 4
EQUAL = "equal to the bit"


def kinds(started) -> dict:
    """What is sampled: the plain base, and guidance of a LoRA pair and of two checkpoints."""
    model, rl_model = tiny.sd3_pair(started)
    other = tiny.load(started, tiny.sd3_transformer(seed=5))
    return {
        "plain": model,
        "RLG, LoRA pair": guide(started, model, rl_model, 2.0),
        "RLG, two checkpoints": guide(started, model, other, 2.0),
    }


class Noised(Sampling):
    """The same noise for an item whatever the batch it is in."""

    def noise(self) -> Tensor:
        items = [
            torch.randn((1, *self.shape[1:]), generator=torch.Generator().manual_seed(self.seed + k))
            for k in range(ITEMS)
        ]
        chosen = items if self.shape[0] == ITEMS else items[self.first : self.first + 1]
        return torch.cat(chosen)

    first = 0


def latents(started, model, threads: int) -> tuple[Tensor, list[Tensor]]:
    """The latents of a batch, and of each of its items alone."""
    torch.set_num_threads(threads)
    batch = Noised(steps=STEPS, shape=(ITEMS, 16, 8, 8)).run(started, model)
    alone = []
    for k in range(ITEMS):
        run = Noised(steps=STEPS, shape=(1, 16, 8, 8))
        run.first = k
        alone.append(run.run(started, model))
    return batch, alone


def hashes(threads: int) -> dict[str, str]:
    """A hash of each kind's latents in this process."""
    started = host.start()
    return {name: digest(latents(started, model, threads)[0]) for name, model in kinds(started).items()}


def digest(latent: Tensor) -> str:
    return hashlib.sha256(latent.cpu().numpy().tobytes()).hexdigest()


def in_another_process(threads: int) -> dict[str, str]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "bench.determinism", str(threads)]
    run = subprocess.run(command, cwd=host.ROOT, env=environment, check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def apart(a: Tensor, b: Tensor) -> str:
    """`equal`, or the largest difference relative to the latents' size."""
    if torch.equal(a, b):
        return EQUAL
    return f"{float((a - b).abs().max() / b.square().mean().sqrt()):.1e}"


def measured() -> dict[str, list[str]]:
    """By what is sampled: how it compares, in the order of the table's columns."""
    started, rows = host.start(), {}
    one, two = in_another_process(1), in_another_process(2)
    for name, model in kinds(started).items():
        batch, alone = latents(started, model, 1)
        again = latents(started, model, 1)[0]
        threads = latents(started, model, 2)[0]
        cells = [apart(again, batch), EQUAL if one[name] == digest(batch) else "differs"]
        cells += [apart(threads, batch), EQUAL if two[name] == digest(threads) else "differs"]
        rows[name] = [*cells, apart(torch.cat(alone), batch)]
    return rows


def main() -> int:
    rows = measured()
    head = (
        "| | run again | another process | two threads for one | another process, two threads | item of a batch of 4 |"
    )
    lines = [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    print("\n".join([f"ComfyUI {host.version()}, {STEPS} steps:", "", head, "| --- |" + " --- |" * 5, *lines]))
    return int(
        any(ours != EQUAL for cells in rows.values() for ours, plain in zip(cells, rows["plain"]) if plain == EQUAL)
    )


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(main())
    print(json.dumps(hashes(int(sys.argv[1]))))
