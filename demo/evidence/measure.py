"""What is measured of a way of sampling, and where it is kept so that no way is sampled twice."""

from __future__ import annotations

import gzip
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from .pair import BASE, CLIP, Pair
from .scores import measured
from .statistics import Estimate, by_caption, estimate, paired
from .ways import HERE, MODELS, Dial, Way

SOURCES = (
    "../rlg_core/rewards/scenes.py",
    "../rlg_core/pictures.py",
    "rewards.py",
    "codec.py",
    "scenes.py",
    "evidence/pair.py",
    "evidence/scores.py",
)
"""What is kept counts for as long as these files stay as they are."""


class OutOfTime(Exception):
    """The time given for sampling is over."""


@dataclass(frozen=True)
class Outcome:
    """`values[name]`: a number for each picture, seed by seed; `diversity` and `structure`: one for each prompt.

    Names are those of the rewards, `correct` (1 where the judge finds the scene as asked) and `shift` (distance from
    the base's picture of the same prompt and noise).
    """

    values: dict[str, list[float]]
    diversity: list[float]
    structure: list[float]

    @property
    def captions(self) -> int:
        return len(self.diversity)

    def of(self, name: str) -> Estimate:
        return estimate(self.values[name], self.captions)

    def over(self, other: Outcome, name: str) -> Estimate:
        """How much higher `name` is than `other`'s, picture by picture; `other` may have more of them."""
        values = self.values[name]
        return paired(values, other.values[name][: len(values)], self.captions)

    def means(self, name: str, seeds: slice = slice(None)) -> np.ndarray:
        """The mean of each caption, over some of its pictures or all."""
        return by_caption(self.values[name], self.captions)[:, seeds].mean(1)

    @property
    def spread(self) -> Estimate:
        return estimate(self.diversity)


class Archive:
    """Numbers of single pictures in one file, so that statistics may change without sampling again.

    A result counts for the files that it was made with; that of others under the same name takes its place.
    """

    def __init__(self, path: Path):
        self.path = path
        self.entries = json.loads(gzip.decompress(path.read_bytes())) if path.is_file() else {}

    def get(self, what: str, files: str) -> dict | None:
        entry = self.entries.get(what)
        return entry["result"] if entry and entry["files"] == files else None

    def put(self, what: str, files: str, result: dict) -> None:
        self.entries[what] = {"files": files, "result": result}
        text = json.dumps(dict(sorted(self.entries.items())), separators=(",", ":"))
        whole = self.path.with_name(self.path.name + ".part")
        whole.write_bytes(gzip.compress(text.encode(), mtime=0))
        whole.replace(self.path)


class Bench:
    """Measures ways on a pair, remembers them in `archive`, and says how far it is."""

    def __init__(
        self,
        pair: Pair,
        archive: Archive,
        say: Callable[[str], None],
        fresh: bool = False,
        models: Path = MODELS,
        until: float | None = None,
    ):
        self.pair, self.archive, self.say, self.models = pair, archive, say, models
        self.fresh, self.until = fresh, until
        self.outcomes: dict[tuple[Way, int], Outcome] = {}
        self.base_pictures: list[Tensor] = []
        self.common = self._common()

    @property
    def has_time(self) -> bool:
        return self.until is None or time.time() < self.until

    def __call__(self, way: Way, seeds: int) -> Outcome:
        """`way` over all prompts, `seeds` pictures each. The first pictures are the same for any number of seeds."""
        if (way, seeds) not in self.outcomes:
            names = [name for name, _ in way.experts]
            kept = self.kept(f"{_spelled(way)} x {seeds}", names, lambda: self._measure(way, seeds))
            self.outcomes[way, seeds] = Outcome(**kept)
        return self.outcomes[way, seeds]

    def in_time(self, ways: Iterable[tuple[float, Way]], seeds: int) -> dict[float, Outcome]:
        """The outcomes of ways by their names, without those that there is no time left for."""
        found = {}
        for name, way in ways:
            with suppress(OutOfTime):
                found[name] = self(way, seeds)
        return found

    def kept(self, what: str, names: Sequence[str], make: Callable[[], dict]) -> dict:
        """`make()`, kept in the archive with a digest of all files it depends on."""
        files = hashlib.sha256("\n".join([self.common, *map(self._digest, names)]).encode()).hexdigest()[:16]
        found = None if self.fresh else self.archive.get(what, files)
        if found is not None:
            return found
        if not self.has_time:
            raise OutOfTime
        started = time.time()
        made = make()
        self.archive.put(what, files, made)
        self.say(f"{what}: {time.time() - started:.1f} s")
        return made

    def _measure(self, way: Way, seeds: int) -> dict:
        while len(self.base_pictures) < seeds:
            self.base_pictures = list(self.pair.pictures(Way(), seeds))
        batches = self.base_pictures[:seeds] if way == Way() else list(self.pair.pictures(way, seeds))
        return measured(batches, self.base_pictures, self.pair.prompts)

    def _common(self) -> str:
        files = [HERE / name for name in SOURCES]
        files += [self.models / "diffusion_models" / BASE, self.models / "text_encoders" / CLIP]
        return " ".join([str(self.pair.steps), *map(str, self.pair.prompts), *map(_file_digest, files)])

    def _digest(self, name: str) -> str:
        expert = self.pair.experts[name]
        files = [expert.path] if expert.is_checkpoint else sorted(expert.path.glob("adapter_*"))
        return " ".join(map(_file_digest, files))


def _spelled(way: Way) -> str:
    """One line that says all of a way; the key of what is kept."""
    kind = "LoRA strength" if way.linearised else "RLG"
    return ", ".join([f"CFG {way.cfg:g}", *(f"{kind} {name} {_dial(dial)}" for name, dial in way.experts)])


def _dial(dial: Dial) -> str:
    if dial.shape == "constant":
        return f"{dial.scale_from:g}"
    return (
        f"{dial.shape} {dial.scale_from:g} to {dial.scale_to:g} in "
        f"{dial.start_percent:g} to {dial.end_percent:g}, power {dial.power:g}"
    )


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
