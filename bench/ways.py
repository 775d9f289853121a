"""The ways of sampling that are compared, one line each in `WAYS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from . import paper
from .pair import Job, Pair

Sample = Callable[[Job, Callable[[], None]], Tensor]

EXACT = {"evaluate": "exact", "refresh_every": 1, "tolerance": 0.0, "batching": "auto"}


@dataclass(frozen=True)
class Way:
    """`build(pair)` readies the models, as loaders do, and returns what runs one job on them."""

    name: str
    build: Callable[[Pair], Sample]
    exact: bool = True


def plain(pair: Pair) -> Sample:
    """The base alone, with the host's own guider."""
    base = pair.base
    return lambda job, on_step: pair.guide(pair.host.comfy.samplers.CFGGuider(base), job, on_step)


def shared(pair: Pair, **budget: Any) -> Sample:
    """RLG with a LoRA pair; `budget` are inputs of RLGBudget that are not neutral."""
    return _guided(pair, pair.rl(), budget)


def two_checkpoints(pair: Pair) -> Sample:
    """RLG with a base and an RL checkpoint."""
    return _guided(pair, pair.copy.clone(), {})


def _guided(pair: Pair, rl: Any, budget: dict[str, Any]) -> Sample:
    nodes, base = pair.host.classes, pair.base

    def sample(job: Job, on_step: Callable[[], None]) -> Tensor:
        # As the graph makes it: the RLG nodes run anew for every scale.
        model = nodes["RLGApply"].execute(base, rl, job.scale, 0.0, 1.0, 1.0, 0.0).result[0]
        if budget:
            model = nodes["RLGBudget"].execute(model, **{**EXACT, **budget}).result[0]
        return pair.guide(pair.host.comfy.samplers.CFGGuider(model), job, on_step)

    return sample


def papers_loop(pair: Pair) -> Sample:
    """diffusers + PEFT."""
    return partial(paper.sample, pair, pair.peft)


def patching(pair: Pair) -> Sample:
    """A two-model pack that patches weights."""
    return _peer(pair, "PatchingGuider", pair.rl())


def two_copies(pair: Pair) -> Sample:
    """A two-model pack that holds two copies."""
    return _peer(pair, "CopiesGuider", pair.copy.clone())


def core_shape(pair: Pair) -> Sample:
    """Core's two-checkpoint guider, combining the two models as RLG does."""
    return _peer(pair, "CoreShapeGuider", pair.copy.clone())


def _peer(pair: Pair, guider: str, rl: Any) -> Sample:
    from . import peers  # needs the host

    base = pair.base
    return lambda job, on_step: pair.guide(getattr(peers, guider)(base, rl, job.scale), job, on_step)


def budget(name: str, **inputs: Any) -> Way:
    return Way(f"RLG, LoRA pair, {name}", partial(shared, **inputs), exact=False)


PLAIN = Way("plain CFG, one model", plain, exact=False)
EXACT_BATCHED = Way("RLG, LoRA pair, exact, batched", shared)
EXACT_SEQUENTIAL = Way("RLG, LoRA pair, exact, two passes", partial(shared, batching="sequential"))
BUDGETS = (
    budget("base every 2nd step", refresh_every=2),
    budget("base every 3rd step", refresh_every=3),
    budget("base every 4th step", refresh_every=4),
    budget("tolerance 0.02", tolerance=0.02, refresh_every=4),
    budget("linearised", evaluate="linearised"),
)
TWO_CHECKPOINTS = Way("RLG, two checkpoints", two_checkpoints)
PAPER = Way("the paper's loop (diffusers + PEFT)", papers_loop)
PATCHING = Way("weights patched back and forth", patching)
COPIES = Way("two full copies, a call each", two_copies)
CORE = Way("core's two-checkpoint shape", core_shape)

RIVALS = (EXACT_BATCHED, EXACT_SEQUENTIAL, TWO_CHECKPOINTS, PAPER, PATCHING, COPIES, CORE)
WAYS = (PLAIN, EXACT_BATCHED, EXACT_SEQUENTIAL, *BUDGETS, TWO_CHECKPOINTS, PAPER, PATCHING, COPIES, CORE)
