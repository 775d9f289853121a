"""Terms beside the modules of a model, switched on for chosen batch rows: `y[rows] += term(x[rows])`.

One copy of the weights serves the base and every RL-tuned version of it. Nothing is merged, and nothing stays on the
modules outside `RowTerms.attached`: an instance `forward` is set on entry and taken off on exit.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .errors import PairError, RowsNotSeparable
from .terms import CONVOLUTIONS, AdditiveTerm, Delta, LowRank

LINEAR_OR_CONV = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Slice = tuple[int, int, int]
"""`(dimension, start, length)` of the weight that a term covers, as fused q, k, v have it."""


@dataclass(frozen=True)
class Placed:
    """A term on one parameter of a module; `at` is None where it covers the whole of it."""

    parameter: str
    term: AdditiveTerm
    at: Slice | None = None


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)


class LowRankSum(nn.Module):
    """All low-rank terms of one module as one down- and one up-matrix, scales folded in.

    `down` [R, in, *kernel], `up` [out, R]: a term on a slice of the output has its `up` in those rows, zeros elsewhere;
    a term on a slice of the input likewise in `down`.
    """

    def __init__(self, terms: Sequence[Placed], shape: Sequence[int], dtype: torch.dtype):
        super().__init__()
        downs, ups = zip(*(self._spread(placed, shape) for placed in terms))
        self.down = _frozen(torch.cat(downs).to(dtype))
        self.up = _frozen(torch.cat(ups, dim=1).to(dtype))

    @staticmethod
    def _spread(placed: Placed, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        term = placed.term.without_mid()
        down, up = term.down, term.up.flatten(1).float() * term.scale
        if placed.at is None:
            return down, up
        dim, start, length = placed.at
        if dim == 0:
            up = functional.pad(up, (0, 0, start, shape[0] - start - length))
        else:
            down = functional.pad(down.flatten(1), (start, shape[1] - start - length))
        return down, up

    def forward(self, x: Tensor, conv: Mapping[str, Any]) -> Tensor:
        down, up = self.down.to(x.device, x.dtype), self.up.to(x.device, x.dtype)
        if down.ndim == 2:
            return functional.linear(functional.linear(x, down), up)
        hidden = CONVOLUTIONS[down.ndim - 2](x, down, **conv)
        return CONVOLUTIONS[down.ndim - 2](hidden, up.reshape(*up.shape, *[1] * (down.ndim - 2)))


class SlicedTerm(nn.Module):
    """One term of another kind (dense, Hadamard, Kronecker); its tensors are parameters, so a host can move them."""

    def __init__(self, placed: Placed, shape: Sequence[int], dtype: torch.dtype):
        super().__init__()
        self.at, self.out = placed.at, shape[0]
        self.kind, tensors, self.rest = type(placed.term), {}, {}
        for name, value in vars(placed.term).items():
            if isinstance(value, Tensor):
                tensors[name] = _frozen(value.to(dtype))
            else:
                self.rest[name] = value
        self.tensors = nn.ParameterDict(tensors)

    def forward(self, x: Tensor, conv: Mapping[str, Any]) -> Tensor:
        term = self.kind(**{name: value.to(x.device) for name, value in self.tensors.items()}, **self.rest)
        if self.at is None:
            return term.apply(x, conv)
        dim, start, length = self.at
        channel = x.ndim - 1 if not conv else 1
        if dim == 1:
            return term.apply(x.narrow(channel, start, length), conv)
        y = term.apply(x, conv)
        before, after = start, self.out - start - length
        return functional.pad(y, (before, after) if not conv else (0, 0) * (y.ndim - 2) + (before, after))


class LinearTerms(nn.Module):
    """What one expert adds to the output of one linear or convolution module."""

    def __init__(self, module: nn.Module, placed: Sequence[Placed], dtype: torch.dtype):
        super().__init__()
        shape = tuple(module.weight.shape)
        self.is_conv = not isinstance(module, nn.Linear)
        self.conv = {name: getattr(module, name) for name in ("stride", "padding", "dilation", "groups")} if self.is_conv else {}
        weight = [p for p in placed if p.parameter == "weight"]
        low_rank = [p for p in weight if isinstance(p.term, LowRank)]
        others = [p for p in weight if not isinstance(p.term, LowRank)]
        sums = [LowRankSum(low_rank, shape, dtype)] if low_rank else []
        self.parts = nn.ModuleList(sums + [SlicedTerm(p, shape, dtype) for p in others])
        bias = [p.term.delta_weight() for p in placed if p.parameter == "bias"]
        self.bias = _frozen(torch.stack(bias).sum(0).to(dtype)) if bias else None

    def add_to(self, y: Tensor, x: Tensor, module: nn.Module) -> None:
        """`y += terms(x)` in place; x [rows, ..., in] (or [rows, in, ...] for convolutions), y likewise with out."""
        for part in self.parts:
            y.add_(part(x, self.conv))
        if self.bias is not None:
            bias = self.bias.to(y.device, y.dtype)
            y.add_(bias.reshape(-1, *[1] * (y.ndim - 2)) if self.is_conv else bias)


class ParameterTerms(nn.Module):
    """What one expert changes in the small parameters of a leaf module such as a norm: its rows run with
    `parameter + delta`."""

    def __init__(self, module: nn.Module, placed: Sequence[Placed], dtype: torch.dtype):
        super().__init__()
        self.deltas = nn.ParameterDict({p.parameter: _frozen(p.term.delta_weight().to(dtype)) for p in placed})

    def add_to(self, y: Tensor, x: Tensor, module: nn.Module) -> None:
        """Overwrites `y` with the module's output under the changed parameters."""
        changed = {
            name: value + delta.to(value.device, value.dtype)
            for name, delta in self.deltas.items()
            for value in [getattr(module, name)]
        }
        y.copy_(torch.func.functional_call(module, changed, (x,)))


def module_terms(name: str, module: nn.Module, placed: Sequence[Placed], dtype: torch.dtype) -> nn.Module:
    """The terms of one expert for one module, in the dtype the model computes in.

    Raises `PairError`, naming the key, where the module is of a kind on which a change cannot be told apart by rows.
    """
    if isinstance(module, LINEAR_OR_CONV):
        return LinearTerms(module, placed, dtype)
    if not any(True for _ in module.children()) and all(isinstance(p.term, Delta) and len(p.term.shape) == 1 for p in placed):
        return ParameterTerms(module, placed, dtype)
    keys = ", ".join(f"{name}.{p.parameter}" for p in placed)
    raise PairError(
        f"The RL model changes {keys}, a parameter of {type(module).__name__} that cannot be switched by batch rows. "
        "Expected changes of linear, convolution or norm layers. Save the RL model as a checkpoint and load both "
        "with Load RLG Checkpoint Pair."
    )


@dataclass(frozen=True)
class Assignment:
    """Rows `[start, stop)` of the batch run with the terms of the expert numbered `expert`."""

    expert: int
    start: int
    stop: int


class _RowForward:
    """The forward of one module while terms are attached to it."""

    def __init__(self, owner: RowTerms, name: str, module: nn.Module, experts: Mapping[int, nn.Module]):
        self.owner, self.name, self.module, self.experts = owner, name, module, experts
        self.plain = MethodType(type(module).forward, module)
        self.inner: Any = self.plain

    def attach(self) -> Any:
        """Puts this forward on the module, around an instance forward another pack set; returns that one or None."""
        previous = self.module.__dict__.get("forward")
        self.inner = previous or self.plain
        # Straight into __dict__: nn.Module.__setattr__ costs more than the rest of the call for small models.
        self.module.__dict__["forward"] = self.forward
        return previous

    def detach(self, previous: Any) -> None:
        if previous is None:
            del self.module.__dict__["forward"]
        else:
            self.module.__dict__["forward"] = previous

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self.inner(x, *args, **kwargs)
        if x.shape[0] != self.owner.total or y.shape[0] != self.owner.total:
            raise RowsNotSeparable(f"{self.name} sees {x.shape[0]} rows, expected {self.owner.total}")
        for rows in self.owner.assignments:
            terms = self.experts.get(rows.expert)
            if terms is not None:
                terms.add_to(y[rows.start : rows.stop], x[rows.start : rows.stop], self.module)
                self.owner.applied += 1
        return y


class RowTerms:
    """The terms of several experts, by the expert's number and the module's name, for one model.

    `applied` counts the applications since the last `attached`: a caller that expects some and finds none knows that
    the model ran without its terms.
    """

    def __init__(self, root: nn.Module, experts: Mapping[int, Mapping[str, nn.Module]]):
        self.forwards = []
        for name in dict.fromkeys(name for terms in experts.values() for name in terms):
            by_expert = {number: terms[name] for number, terms in experts.items() if name in terms}
            self.forwards.append(_RowForward(self, name, root.get_submodule(name), by_expert))
        self.assignments: Sequence[Assignment] = ()
        self.total = 0
        self.applied = 0

    @contextmanager
    def attached(self, assignments: Sequence[Assignment], total: int) -> Iterator[None]:
        """Runs the model inside with the terms of each assignment on its rows, of `total` rows in all."""
        self.assignments, self.total, self.applied = assignments, total, 0
        wanted = {rows.expert for rows in assignments}
        attached: list[tuple[_RowForward, Any]] = []
        try:
            for forward in self.forwards:
                if wanted & forward.experts.keys():
                    attached.append((forward, forward.attach()))
            yield
        finally:
            for forward, previous in reversed(attached):
                forward.detach(previous)
