"""One call of the model as `WrappersMP.APPLY_MODEL` sees it, and how it is repeated for base and experts."""

from __future__ import annotations

import inspect
import uuid
import weakref
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from operator import is_not
from typing import Any

import torch
from comfy.model_base import BaseModel
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ..compat import CACHES_BY_UUID, STATELESS_OPTIONS, conds_of_one_row
from ..models.relation import KEY

BASE = 0
"""The base's role in a call; expert k, counted from 1, has role k."""

MERGED = -1
"""The role of all experts' terms at once, each at its share of the total weight."""


@dataclass(frozen=True)
class Batch:
    """The rows of one call: latents `x` [rows, ...] at sigmas `t` [rows], and where they come from.

    The rows are `[conditioning][item]`, with `chunks` conditionings. `conditionings` are their ids, each with its index
    in the guider's list of prompts (0 positive, 1 negative), as far as the sampler tells them. `window` is the host's
    context window, if the call is for one.
    """

    x: Tensor
    t: Tensor
    chunks: int = 1
    conditionings: tuple[tuple[Any, int], ...] = ()
    window: Any = None

    @cached_property
    def sigma(self) -> float:
        """The first row's sigma. Reading it waits for a GPU, so it is read only where something depends on it."""
        return float(self.t.flatten()[0])

    @property
    def items(self) -> int:
        """Batch items per conditioning."""
        return self.x.shape[0] // self.chunks


@dataclass(frozen=True)
class ModelCall:
    """One call of the model.

    `executor(x, t, ...)` returns the denoised prediction [rows, ...] in float32 for latents `x` [rows, ...] at sigmas
    `t` [rows]. `elsewhere` is the device of its model, where that is another one than that of the tensors.
    """

    executor: WrapperExecutor
    x: Tensor
    t: Tensor
    c_concat: Tensor | None
    c_crossattn: Tensor | None
    control: dict[str, list[Tensor | None]] | None
    transformer_options: dict[str, Any]
    conds: dict[str, Any]
    elsewhere: torch.device | None = None

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.elsewhere or self.x.device

    @property
    def rows(self) -> int:
        return self.x.shape[0]

    @property
    def sigma(self) -> float:
        return self.batch.sigma

    @cached_property
    def batch(self) -> Batch:
        options = self.transformer_options
        indices = options.get("cond_or_uncond", ())
        conditionings = tuple(zip(options.get("uuids", ()), indices))
        return Batch(self.x, self.t, max(len(indices), 1), conditionings, options.get("context_window"))

    def run(self) -> Tensor:
        """The prediction, on the device of `x`."""
        if self.elsewhere is not None:
            taken = {field.name: _moved(getattr(self, field.name), self.elsewhere) for field in fields(self)}
            return replace(self, **taken | {"elsewhere": None}).run().to(self.x.device)
        # UNets pop from the control lists, so every run gets its own.
        control = None if self.control is None else {name: list(outputs) for name, outputs in self.control.items()}
        return self.executor(
            self.x, self.t, self.c_concat, self.c_crossattn, control, self.transformer_options, **self.conds
        )

    def for_role(self, role: int, purpose: str = "") -> ModelCall:
        """This call under its own uuids: caches of other nodes must not take one role's features for another's.

        The latents are copied: caches write into them (EasyCache does), and the base's call comes after.
        """
        if role == BASE and not purpose:
            return self
        return replace(self, x=self.x.clone(), transformer_options=self._options([role], purpose))

    def for_roles(self, roles: Sequence[int], purpose: str = "") -> ModelCall:
        """One call over `[rows of the first role | rows of the second | ...]`."""
        times = len(roles)
        shared = conds_of_one_row(self.executor.class_obj) if self.rows == 1 else ()
        return replace(
            self,
            x=self._repeat(self.x, times),
            t=self._repeat(self.t, times),
            c_concat=self._repeat(self.c_concat, times),
            c_crossattn=self._repeat(self.c_crossattn, times),
            control=self._repeat(self.control, times),
            transformer_options=self._options(roles, purpose),
            conds={name: c if name in shared else self._repeat(c, times) for name, c in self.conds.items()},
        )

    def on(self, model: BaseModel, device: torch.device) -> ModelCall:
        """This call on another model, which computes on `device`, through the same wrappers of other nodes."""
        wrappers, index = self.executor.wrappers, self.executor.idx
        executor = WrapperExecutor.new_class_executor(model._apply_model, model, wrappers, index)
        return replace(self, executor=executor, elsewhere=None if _is_one(device, self.x.device) else device)

    def signature(self) -> tuple:
        """What decides, within one run, whether rows stay apart: shape, and conditionings and patches by name."""
        names = tuple(sorted(f"{kind}:{_name(patch)}" for kind, patch in self._patches()))
        return (tuple(self.x.shape), tuple(sorted(self.conds)), self.control is not None, names)

    def prompts(self) -> tuple[int, ...]:
        """The guider's index of the prompt of each conditioning: patches may mix rows of some prompts only (NAG)."""
        return tuple(self.transformer_options.get("cond_or_uncond", ()))

    def patches(self) -> tuple:
        """The patches at work, by identity: equal for two calls only if they are the same objects."""
        return tuple((kind, mark(patch)) for kind, patch in self._patches())

    def _patches(self) -> Iterator[tuple[str, Any]]:
        """What other nodes put inside the model: their patches, wrappers and functions, each with its place."""
        for name, value in self.transformer_options.items():
            if name == "wrappers":
                value = {kind: value.get(kind) for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)}
            if name != "callbacks":
                yield from callables(name, value)

    def state_roots(self) -> list[Any]:
        """Everything in the options in which other nodes may keep state from one call to the next."""
        options = self.transformer_options
        ignored = STATELESS_OPTIONS | CACHES_BY_UUID
        kept = [value for name, value in options.items() if name not in ignored]
        return [*kept, *(patch for place, patch in self._patches() if place.startswith("wrappers "))]

    def _repeat(self, value: Any, times: int) -> Any:
        if isinstance(value, Tensor):
            return torch.cat([value] * times) if value.ndim and value.shape[0] == self.rows else value
        if isinstance(value, dict):
            return {name: self._repeat(item, times) for name, item in value.items()}
        if isinstance(value, list):
            return [self._repeat(item, times) for item in value]
        return value

    def _options(self, roles: Sequence[int], purpose: str = "") -> dict[str, Any]:
        options = self.transformer_options.copy()
        options["cond_or_uncond"] = list(options.get("cond_or_uncond", ())) * len(roles)
        options["uuids"] = [_role_uuid(u, role, purpose) for role in roles for u in options.get("uuids", ())]
        return options


def _is_one(device: torch.device, other: torch.device) -> bool:
    """Whether two names are one device's: without an index it is the first (MPS)."""
    return (device.type, device.index or 0) == (other.type, other.index or 0)


def _moved(value: Any, device: torch.device) -> Any:
    """`value` with all tensors in it on `device`; what has none in it stays itself, as other nodes may write to it."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        moved = {name: _moved(item, device) for name, item in value.items()}
        return moved if any(moved[name] is not item for name, item in value.items()) else value
    if type(value) in (list, tuple):
        items = [_moved(item, device) for item in value]
        return type(value)(items) if any(map(is_not, items, value)) else value
    return value


def _role_uuid(conditioning: uuid.UUID, role: int, purpose: str) -> uuid.UUID:
    return conditioning if role == BASE and not purpose else uuid.uuid5(conditioning, f"rlg {role} {purpose}")


def callables(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The functions in nested dictionaries and lists; not the pack's own, which each run makes anew."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from callables(f"{place} {name}", item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from callables(place, item)
    elif callable(value) and not place.endswith(f" {KEY}"):
        yield place, value


def _name(patch: Any) -> str:
    return getattr(patch, "__qualname__", type(patch).__qualname__)


def mark(patch: Any) -> Hashable:
    """Stands for one object without keeping it alive; never equal to the mark of another that came later."""
    try:
        reference = weakref.WeakMethod(patch) if inspect.ismethod(patch) else weakref.ref(patch)
        hash(reference)
    except TypeError:
        return object()  # cannot be recognised: equal to nothing
    return reference


def is_gone(marked: Hashable) -> bool:
    """Whether the object behind a mark is gone, so that nothing will ever equal the mark."""
    return not isinstance(marked, weakref.ref) or marked() is None
