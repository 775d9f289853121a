"""`python -m bench.soak [--prompts 2000] [--host 0.30.0] [--seed 0]`: soaks a server with the pack, then one without.

The second gets a third of the prompts, all of them plain: its memory is what the first one's is compared with.
Ends with a table in Markdown, and with status 1 if a latent differed, a prompt ended otherwise than it should, a
patched module or a temporary file was left, or a count grew.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from devtools import hosts
from devtools.environment import PYTHON
from devtools.paths import PACK, ROOT
from devtools.server import MODELS, RunFailed, Server

from . import graphs
from .watch import Soak, resident_megabytes, temporary_files

RELEASES = {release.version: release for release in hosts.RELEASES}
NODE = Path(__file__).parent / "node"
MEMORY = ("resident memory (MB)", "given out by malloc (MB)", "small objects of Python (thousands)")
EVERY = 25
"""Prompts from one look at memory and counts to the next."""
ZERO = ("live runs", "live passes", "live turns", "runs under way", "patched modules", "hooked modules")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, default=600, help="end each part after so long, whatever is left of it"
    )
    parser.add_argument("--host", default=hosts.CURRENT.version, choices=RELEASES)
    arguments = parser.parse_args()
    host = hosts.fetch(RELEASES[arguments.host], PYTHON)
    found = {True: soak(host, arguments.prompts, arguments.seed, True, arguments.minutes)}
    print(table(arguments, found), flush=True)
    found[False] = soak(host, arguments.prompts // 3, arguments.seed, False, arguments.minutes)
    print(table(arguments, found), flush=True)
    return int(any(wrong(one) for one in found.values()))


def soak(host: hosts.Host, prompts: int, seed: int, with_pack: bool, minutes: float) -> Soak:
    """Runs them all through one server."""
    with tempfile.TemporaryDirectory(prefix="rlg-soak-") as name:
        folder = Path(name)
        environment = os.environ | hosts.to_environment(host)
        command = [sys.executable, "-m", "bench.soak.models", str(folder / "models")]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        packs = {"rlg-soak": NODE} | ({PACK: ROOT} if with_pack else {})
        if not with_pack:  # which brings them
            shutil.copytree(MODELS, folder / "models", dirs_exist_ok=True)
        found, started = Soak(), time.time()
        with Server(host, folder, packs=packs) as server:
            for number in range(prompts):
                if number % EVERY == 0:
                    look(server, number, found)
                    latest = ", ".join(f"{what} {looks[-1][1]:.1f}" for what, looks in found.memory.items())
                    said = f"{number} prompts, {latest}, wrong: {wrong(found)}"
                    print(f"[{time.time() - started:5.0f} s] {said}", flush=True)
                if time.time() - started > 60 * minutes:
                    break
                run(server, number, graphs.prompt(number, seed, with_pack), found)
            look(server, number + 1, found)
        found.failures += [f"left: {path}" for path in temporary_files(folder)]
    return found


def look(server: Server, number: int, found: Soak) -> None:
    """Memory and counts, at rest: models and results are freed, and the history of prompts, which grows by design."""
    server.read("/history", {"clear": True})
    server.read("/free", {"unload_models": True, "free_memory": True})
    for tick in (2 * number, 2 * number + 1):  # the server frees after the first
        outputs = server.run({"1": {"class_type": "SoakCounts", "inputs": {"tick": tick}}})
    (counts,), (allocated,), (blocks,) = (outputs["1"][name] for name in ("counts", "allocated", "blocks"))
    found.counts.append((number, counts))
    megabytes = math.nan if allocated is None else allocated / 2**20
    values = (resident_megabytes(server.process.pid), megabytes, blocks / 1000)
    for what, value in zip(MEMORY, values):
        found.memory.setdefault(what, []).append((number, value))


def run(server: Server, number: int, prompt: graphs.Prompt, found: Soak) -> None:
    """Runs one prompt and notes how it ended; now and then everything that the server keeps is freed before."""
    if random.Random(number).random() < 0.03:
        server.read("/free", {"unload_models": True, "free_memory": True})
    interrupts = iter([True])

    def progress(node: str, value: int, steps: int) -> None:
        if prompt.interrupts and value >= 2 and next(interrupts, False):
            server.read("/interrupt", {})

    found.seen[prompt.kind] += 1
    try:
        outputs = server.run(prompt.graph, progress)
    except RunFailed as failure:
        expected = "interrupted" if prompt.interrupts else prompt.error
        kind = failure.detail.get("exception_type", "refused before it ran")
        ours = prompt.interrupts or kind.startswith("RLG.") or "node_errors" in failure.detail
        if not expected or expected not in str(failure) or not ours:
            found.failures.append(f"prompt {number}: {prompt.kind}: {kind} {str(failure)[:300]}")
        return
    if prompt.error or prompt.interrupts:
        found.failures.append(f"prompt {number}: {prompt.kind}: ended well")
    found.compare(number, prompt, outputs)


def wrong(found: Soak) -> list[str]:
    """All that should not have been."""
    bounds = [f"{name}: {counts[name]} after {n}" for n, counts in found.counts for name in ZERO if counts.get(name)]
    return [*found.differing, *found.failures, *bounds]


def table(arguments: argparse.Namespace, found: dict[bool, Soak]) -> str:
    """The results in Markdown."""
    both = list(found.values())
    rows = {"": ["with the pack", "without it"][: len(both)]}
    kinds = [[kind for kind in one.seen if ": " in kind and not kind.startswith("{")] for one in both]
    for family in ("plain", "guided", "error"):
        rows[f"{family} prompts"] = [
            str(sum(one.seen[kind] for kind in own if kind.startswith(family))) for one, own in zip(both, kinds)
        ]
    for family in ("plain", "guided"):
        rows[f"{family} latents compared with their first"] = [str(one.repeated[family]) for one in both]
    rows["of them different in any bit"] = [str(len(one.differing)) for one in both]
    rows["prompts that ended otherwise than they should, or left a file"] = [str(len(one.failures)) for one in both]
    for what in MEMORY:
        looks = [one.memory[what] for one in both]
        rows[f"{what}: first and last look"] = [f"{own[0][1]:.1f}, {own[-1][1]:.1f}" for own in looks]
        rows[f"{what}: slope per 100 prompts, from a quarter on"] = [f"{one.slope(what):+.2f}" for one in both]
    ranges = [one.constant() for one in both]
    for name in ranges[0]:
        rows[f"{name}, from a quarter on"] = [own.get(name, "-") for own in ranges]
    head = f"`python -m bench.soak --prompts {arguments.prompts} --host {arguments.host} --seed {arguments.seed}`"
    lines = [f"| {name} | {' | '.join(values)} |" for name, values in rows.items()]
    faults = [f"- {text}" for one in both for text in wrong(one)]
    return "\n".join([head, "", lines[0], "| --- |" + " ---: |" * len(both), *lines[1:], "", *faults])


if __name__ == "__main__":
    sys.exit(main())
