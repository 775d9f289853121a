"""One node in a graph with RLG, before it or after it, against two whole runs in lock step."""

from __future__ import annotations

import random as python_random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .compatibility import Verdict
from .guiding import guide, run_node
from .layouts import SmallModels
from .lock_step import two_runs
from .node_inputs import NoGraph
from .oracle import two_models
from .tensors import largest, rms

AFTER, BEFORE = "after RLG", "before RLG"
PLACES = (AFTER, BEFORE)
SHARED, TWO_PASSES, CHECKPOINTS = "shared weights", "shared weights in two passes", "two checkpoints"
EVERY_SCALE, ONE_SCALE = (0.0, 1.0, 2.0), (2.0,)
"""0 and 1 have ways of their own; between and beyond, all scales go one way, on which 2 shows an error the most."""

THOROUGHLY = {SHARED: EVERY_SCALE, TWO_PASSES: ONE_SCALE, CHECKPOINTS: EVERY_SCALE}
"""The relations of base and RL model in which a node is run, each at its scales."""

QUICKLY = {SHARED: ONE_SCALE, TWO_PASSES: ONE_SCALE, CHECKPOINTS: ONE_SCALE}
OUTSIDE = {SHARED: EVERY_SCALE, CHECKPOINTS: ONE_SCALE}
"""For samplers and guiders, which see no more than predictions."""

TOLERANCE = 1e-3
"""The largest error of any value, in effects of the RL model (the root mean square of what it changes)."""


RIGHT = Verdict("right")


class Wrong(AssertionError):
    """A picture that is not what two models make."""


@dataclass(eq=False)
class Graph:
    """A graph around one node: `put_on(model)` is the node's model, `run(model)` samples and returns the latent.

    What it is compared with has the RL model's weights `merged`, or as patches, and is two runs that take turns or,
    where nodes keep in one place what they sample, one run of two models.
    """

    models: SmallModels
    run: Callable[[Any], Tensor]
    put_on: Callable[[Any], Any] = lambda model: model
    places: tuple[str, ...] = PLACES
    scales: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: THOROUGHLY)
    tolerance: float = TOLERANCE
    merged: bool = False
    takes_turns: bool = True
    known: dict[Any, Tensor] = field(default_factory=dict)

    @property
    def host(self) -> SimpleNamespace:
        return self.models.host

    @property
    def rl_alone(self) -> Any:
        return self.models.merged if self.merged else self.models.rl_alone

    def sampled(self, model: Any) -> Tensor:
        """The latent, from the same state of every generator."""
        forget_dead(self.host)
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
            return self.sampled(self.put_on(self.rl_alone))
        base, rl_model = self.put_on(self.models.model), self.put_on(self.rl_alone)
        if not self.takes_turns:
            return self.sampled(two_models(self.host, base, rl_model, scale))
        return two_runs(self.host, base, rl_model, scale, self.sampled)

    def guided(self, place: str, relation: str, scale: float) -> Any:
        """The model to sample, with RLG and the node on it."""
        model, rl_model = self.models.model, self.models.rl_model
        if relation == CHECKPOINTS:
            rl_model = self.models.checkpoint

        def rlg(base, rl):
            guided = guide(self.host, base, rl, scale)
            passes = "sequential" if relation == TWO_PASSES else "auto"
            return run_node(self.host, "RLGBudget", guided, "exact", 1, 0.0, passes)[0]

        if place == BEFORE:
            return rlg(self.put_on(model), self.put_on(rl_model))
        return self.put_on(rlg(model, rl_model))

    def verdicts(self) -> dict[str, Verdict]:
        """A verdict for each place and relation. Raises `NoGraph` for what fails without RLG."""
        try:
            plain = self.expected(0.0)
            self.effect()
            for scale in {scale for scales in self.scales.values() for scale in scales}:
                self.expected(scale)
        except Exception as error:
            raise NoGraph(f"fails without RLG ({type(error).__name__}: {first_line(error)})") from error
        found = {
            ", ".join(filter(None, (place, relation))): self.verdict(place, relation)
            for place in self.places
            for relation in self.scales
        }
        if not torch.equal(self.plain(), plain):
            found["afterwards"] = Verdict(
                "wrong", "the plain graph gives another picture than before the runs with RLG"
            )
        return found

    def verdict(self, place: str, relation: str) -> Verdict:
        """The worst that happened at any scale: a picture that is wrong counts, whatever else is refused."""
        refused = RIGHT
        for scale in self.scales[relation]:
            try:
                self.require(self.sampled(self.guided(place, relation, scale)), scale)
            except self.refusal as error:
                refused = Verdict("refused", first_line(error)) if refused is RIGHT else refused
            except Wrong as error:
                return Verdict("wrong", first_line(error))
            except Exception as error:
                return Verdict("failed", f"scale {scale:g}: {type(error).__name__}: {first_line(error)}")
        return refused

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


def forget_dead(host: SimpleNamespace) -> None:
    """Has the host forget patchers that went away in a reference cycle, as those of `dpm_adaptive` do.

    It keeps them listed for as long as their model lives, and collects garbage at every load.
    """
    loaded = host.comfy.model_management.current_loaded_models
    loaded[:] = [model for model in loaded if not model.is_dead()]


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def small_models(host: SimpleNamespace, layout: str) -> SmallModels:
    """The models of one layout, made once."""
    made = vars(host).setdefault("small_models", {})
    if layout not in made:
        made[layout] = SmallModels(host, layout)
    return made[layout]
