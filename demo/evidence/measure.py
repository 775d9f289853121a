"""What is measured of a way of sampling, and where it is kept so that no way is sampled twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demo import rewards
from rlg_core.pictures import diversity, picture_distance, structure_diversity
from rlg_core.rewards import scenes as judge
from rlg_core.rewards.scenes import Prompt

from .pair import BASE, CLIP, Pair
from .statistics import Estimate, by_caption, estimate, paired
from .ways import HERE, MODELS, Dial, Way

CORRECT, SHIFT = "correct", "shift"
MEASURES = (diversity, structure_diversity)
SOURCES = (
    "../rlg_core/rewards/scenes.py",
    "rewards.py",
    "codec.py",
    "scenes.py",
    "evidence/pair.py",
    "evidence/measure.py",
)


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
        """How much higher `name` is than `other`'s, picture by picture."""
        return paired(self.values[name], other.values[name], self.captions)

    def means(self, name: str, seeds: int | None = None) -> np.ndarray:
        """The mean of each caption, over its first pictures or all."""
        return by_caption(self.values[name], self.captions)[:, :seeds].mean(1)

    @property
    def spread(self) -> Estimate:
        return estimate(self.diversity)


def score(pictures: Tensor, prompts: Sequence[Prompt]) -> dict[str, list[float]]:
    """Every reward and correctness of pictures (B, 3, H, W) in [0, 1]; the judge looks once."""
    found = judge.find(pictures.movedim(1, -1))
    values = {name: reward(pictures, prompts) for name, reward in rewards.REWARDS.items() if name != "composition"}
    values["composition"] = torch.tensor([judge.score(f, p) for f, p in zip(found, prompts)])
    values[CORRECT] = torch.tensor([float(judge.correct(f, p)) for f, p in zip(found, prompts)])
    return {name: [round(v, 5) for v in value.tolist()] for name, value in values.items()}


def outcome(batches: Sequence[Tensor], base: Sequence[Tensor], prompts: Sequence[Prompt]) -> Outcome:
    """Of batches (P, 3, H, W), one a seed, and the base's."""
    parts = [score(pictures, prompts) for pictures in batches]
    values = {name: [v for part in parts for v in part[name]] for name in parts[0]}
    values[SHIFT] = [round(v, 5) for a, b in zip(batches, base) for v in picture_distance(_last(a), _last(b)).tolist()]
    together = torch.stack([_last(pictures) for pictures in batches])
    spreads = ([round(measure(together[:, k]), 5) for k in range(len(prompts))] for measure in MEASURES)
    return Outcome(values, *spreads)


def _last(pictures: Tensor) -> Tensor:
    """Channels last, as the pack's picture functions have them."""
    return pictures.movedim(1, -1)


class Bench:
    """Measures ways on a pair, remembers them below `folder`, and says how far it is."""

    def __init__(
        self,
        pair: Pair,
        folder: Path,
        say: Callable[[str], None],
        fresh: bool = False,
        models: Path = MODELS,
        until: float | None = None,
    ):
        self.pair, self.folder, self.say, self.fresh, self.models, self.until = pair, folder, say, fresh, models, until
        self.outcomes: dict[tuple[Way, int], Outcome] = {}
        self.base_pictures: list[Tensor] = []
        self.common = self._common()

    def __call__(self, way: Way, seeds: int) -> Outcome:
        """`way` over all prompts, `seeds` pictures each. The first pictures are the same for any number of seeds."""
        if (way, seeds) not in self.outcomes:
            names = [name for name, _ in way.experts]
            self.outcomes[way, seeds] = self.kept(
                f"{_spelled(way)} x {seeds}", names, lambda: self._measure(way, seeds), Outcome
            )
        return self.outcomes[way, seeds]

    def kept(self, what: str, names: Sequence[str], make: Callable, kind: Callable = dict):
        """`make()`, kept as JSON below `folder` under a key of what it is and of all files it depends on."""
        key = hashlib.sha256(
            "\n".join([what, self.common, *(self._digest(name) for name in names)]).encode()
        ).hexdigest()
        path = self.folder / f"{key[:24]}.json"
        if path.is_file() and not self.fresh:
            return kind(**json.loads(path.read_text(encoding="utf-8"))["result"])
        started = time.time()
        if self.until is not None and started > self.until:
            raise OutOfTime
        made = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"what": what, "result": made if isinstance(made, dict) else asdict(made)}
        path.write_text(json.dumps(record), encoding="utf-8")
        self.say(f"{what}: {time.time() - started:.1f} s")
        return made

    def _measure(self, way: Way, seeds: int) -> Outcome:
        while len(self.base_pictures) < seeds:
            self.base_pictures = list(self.pair.pictures(Way(), seeds))
        batches = self.base_pictures[:seeds] if way == Way() else list(self.pair.pictures(way, seeds))
        return outcome(batches, self.base_pictures, self.pair.prompts)

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
