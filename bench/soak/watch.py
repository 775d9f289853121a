"""What a soak sees: latents that must repeat to the bit, resident memory, counts in the server, files left behind."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from .graphs import Prompt

SETTLED = 0.25
"""Part of the prompts before memory is fitted: caches that have a bound fill up first."""


@dataclass
class Soak:
    """The results of one server's soak."""

    latents: dict[str, str] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    differing: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    memory: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    counts: list[tuple[int, dict[str, int]]] = field(default_factory=list)

    def compare(self, number: int, prompt: Prompt, outputs: dict[str, Any]) -> None:
        """Holds a latent against the one that the same graph made the first time."""
        found = [sha for output in outputs.values() for sha in output.get("sha", [])]
        if not found:
            return
        key = json.dumps(prompt.graph, sort_keys=True)
        if self.latents.setdefault(key, found[0]) != found[0]:
            self.differing.append(f"prompt {number}: {prompt.kind}")
        elif self.seen[key]:
            self.repeated[prompt.kind.split(":")[0]] += 1
        self.seen[key] += 1

    def slope(self, what: str) -> float:
        """What a kind of memory grows by per 100 prompts, once caches are full: the median slope of all pairs of looks.

        The allocator returns 20 MB at some looks and not at others, which would bend a least-squares line.
        """
        memory = self.memory[what]
        points = [point for point in memory if point[0] >= SETTLED * memory[-1][0]]
        slopes = [(after - before) / (later - n) for (n, before), (later, after) in combinations(points, 2)]
        return 100 * median(slopes) if slopes else math.nan

    def constant(self) -> dict[str, str]:
        """Each count's range over the settled part."""
        rows = [counts for number, counts in self.counts if number >= SETTLED * self.counts[-1][0]]
        return {
            name: f"{min(row[name] for row in rows)} to {max(row[name] for row in rows)}"
            for name in (rows[-1] if rows else {})
        }


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process; 0 where the system does not say."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0.0
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS")) / 1024


def temporary_files(folder: Path) -> list[str]:
    """Files with a temporary name anywhere below the server's folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.tmp"))
