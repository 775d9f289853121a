"""One node in a graph with RLG, before it or after it, against two whole runs in lock step."""

from __future__ import annotations

import random as python_random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .guiding import guide, run_node
from .layouts import SmallModels
from .lock_step import two_runs
from .tensors import largest, rms

PLACES = ("after", "before")
RELATIONS = ("shared weights", "shared weights in two passes", "two checkpoints")
SCALES = (0.0, 0.5, 1.0, 2.0)
TOLERANCE = 1e-3
"""The largest error of any value, in effects of the RL model (the root mean square of what it changes)."""


@dataclass(frozen=True)
class Verdict:
    """What a node did in one place: `right`, `refused` with the first line of what was said, or `wrong` with what was
    found."""

    outcome: str
    said: str = ""


RIGHT = Verdict("right")


class Wrong(AssertionError):
    """A picture that is not what two models make."""


@dataclass(eq=False)
class Graph:
    """A graph around one node: `put_on(model)` is the node's model, `run(model)` samples and returns the latent."""

    models: SmallModels
    put_on: Callable[[Any], Any]
    run: Callable[[Any], Tensor]
    tolerance: float = TOLERANCE
    scales: tuple[float, ...] = SCALES
    known: dict[Any, Tensor] = field(default_factory=dict)

    @property
    def host(self) -> SimpleNamespace:
        return self.models.host

    def sampled(self, model: Any) -> Tensor:
        """The latent, from the same state of every generator."""
        torch.manual_seed(9)
        python_random.seed(9)
        np.random.seed(9)
        latent = self.run(model)
        if not bool(torch.isfinite(latent).all()):
            raise Wrong("the latent has NaN or infinite values")
        return latent

    def plain(self) -> Tensor:
        """The graph of the base without RLG, every time anew."""
        return self.sampled(self.put_on(self.models.model))

    def expected(self, scale: float) -> Tensor:
        """What RLG must make, from the node on each of two models."""
        if scale not in self.known:
            self.known[scale] = self._expected(scale)
        return self.known[scale]

    def _expected(self, scale: float) -> Tensor:
        if scale == 0.0:
            return self.plain()
        if scale == 1.0:
            return self.sampled(self.put_on(self.models.rl_alone))
        base, rl_model = self.put_on(self.models.model), self.put_on(self.models.rl_alone)
        return two_runs(self.host, base, rl_model, scale, self.sampled)

    def guided(self, place: str, relation: str, scale: float) -> Any:
        """The model to sample, with RLG and the node on it."""
        model, rl_model = self.models.model, self.models.rl_model
        if relation == "two checkpoints":
            rl_model = self.models.checkpoint

        def rlg(base, rl):
            guided = guide(self.host, base, rl, scale)
            passes = "sequential" if relation.endswith("passes") else "auto"
            return run_node(self.host, "RLGBudget", guided, "exact", 1, 0.0, passes)[0]

        if place == "after":
            return self.put_on(rlg(model, rl_model))
        return rlg(self.put_on(model), self.put_on(rl_model))

    def verdict(self, place: str, relation: str) -> Verdict:
        """Raises `Wrong` for a picture that is wrong, whatever else is refused."""
        plain, refused = self.expected(0.0), ""
        self.effect()
        scales = (2.0,) if relation.endswith("passes") else self.scales
        for scale in scales:
            try:
                found = self.sampled(self.guided(place, relation, scale))
            except self.refusal as error:
                refused = refused or str(error).splitlines()[0]
            else:
                self.require(found, scale)
        if not torch.equal(self.plain(), plain):
            raise Wrong("the plain graph gives another picture after a run with RLG")
        return Verdict("refused", refused) if refused else RIGHT

    @property
    def refusal(self) -> type[Exception]:
        return self.host.module("rlg_core.errors").RLGError

    def require(self, found: Tensor, scale: float) -> None:
        expected = self.expected(scale)
        if found.shape != expected.shape:
            raise Wrong(f"scale {scale:g}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
        if scale == 0.0 and torch.equal(found, expected):
            return
        error = largest(found, expected) / self.effect()
        if scale == 0.0 or error > self.tolerance:
            raise Wrong(f"scale {scale:g}: off by {error:.2g} effects of the RL model")

    def effect(self) -> float:
        """What the RL model changes. It must be more than rounding, or every check would pass."""
        effect = rms(self.expected(1.0) - self.expected(0.0))
        assert effect > 1e-2 * rms(self.expected(0.0)), f"the RL model has an effect of {effect:.1e} only"
        return effect


def small_models(host: SimpleNamespace, layout: str) -> SmallModels:
    """The models of one layout, made once."""
    made = vars(host).setdefault("small_models", {})
    if layout not in made:
        made[layout] = SmallModels(host, layout)
    return made[layout]
