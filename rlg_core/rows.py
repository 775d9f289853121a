"""Terms beside the modules of a model, switched on for chosen batch rows: `y[rows] += term(x[rows])`.

One copy of the weights serves the base and every RL-tuned version of it. Nothing is merged, and nothing stays on the
modules outside `RowTerms.attached`: an instance `forward` is set on entry and taken off on exit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .errors import RowsNotSeparable
from .terms import AdditiveTerm, Conv, Delta, Hadamard, LowRank, low_rank_product, plain_conv

CONVOLUTION_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
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


def _add(y: Tensor, addition: Tensor, factor: float | Tensor) -> None:
    """`y += factor * addition` in place, the factor one number or one for each row of `y`."""
    if isinstance(factor, Tensor):
        y.add_(addition * factor.to(y.dtype).reshape(-1, *[1] * (y.ndim - 1)))
    else:
        y.add_(addition, alpha=factor)


class LowRankSum(nn.Module):
    """All low-rank terms of one module as one down- and one up-matrix, scales folded in.

    `down` [R, in, *kernel], `up` [out, R]: a term on a slice of the output has its `up` in those rows, zeros elsewhere;
    a term on a slice of the input likewise in `down`.
    """

    def __init__(self, terms: Sequence[Placed], shape: Sequence[int], dtype: torch.dtype):
        super().__init__()
        downs, ups = zip(*(self._spread(placed, shape) for placed in terms))
        self.down = _frozen(torch.cat([down.to(dtype) for down in downs]))
        self.up = _frozen(torch.cat([up.to(dtype) for up in ups], dim=1))

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

    def forward(self, x: Tensor, conv: Conv) -> Tensor:
        return low_rank_product(x, self.down.to(x.device, x.dtype), self.up.to(x.device, x.dtype), conv)


class SlicedTerm(nn.Module):
    """One term of another kind (dense, Kronecker); its tensors are parameters, so that a host can move them."""

    def __init__(self, placed: Placed, shape: Sequence[int], dtype: torch.dtype):
        super().__init__()
        self.at, self.out = placed.at, shape[0]
        self.channel = -1 if len(shape) == 2 else 1
        fields = vars(placed.term)
        self.kind = type(placed.term)
        self.tensors = nn.ParameterDict({k: _frozen(v.to(dtype)) for k, v in fields.items() if isinstance(v, Tensor)})
        self.rest = {k: v for k, v in fields.items() if not isinstance(v, Tensor)}

    def forward(self, x: Tensor, conv: Conv) -> Tensor:
        term = self.kind(**{name: value.to(x.device) for name, value in self.tensors.items()}, **self.rest)
        if self.at is None:
            return term.apply(x, conv)
        dim, start, length = self.at
        if dim == 1:
            return term.apply(x.narrow(self.channel, start, length), conv)
        y = term.apply(x, conv)
        padded = y.new_zeros([self.out if d == self.channel % y.ndim else size for d, size in enumerate(y.shape)])
        padded.narrow(self.channel, start, length).copy_(y)
        return padded


def _least(placed: Placed) -> Placed:
    """A Hadamard term as what costs less on activations: the low-rank product it equals, or the dense change."""
    if not isinstance(placed.term, Hadamard):
        return placed
    low_rank = placed.term.as_low_rank()
    out, *inner = low_rank.shape
    small = low_rank.rank * (out + math.prod(inner)) < out * math.prod(inner)
    return replace(placed, term=low_rank if small else Delta(placed.term.delta_weight()))


def _whole(placed: Placed, shape: Sequence[int]) -> Placed:
    """A term on a slice as a dense change of the whole weight."""
    delta = torch.zeros(shape)
    delta.narrow(*placed.at).copy_(placed.term.delta_weight())
    return replace(placed, term=Delta(delta), at=None)


def _total(terms: Sequence[Placed], shape: Sequence[int]) -> Tensor:
    """The sum of changes of one parameter of `shape`, each in its slice."""
    total = torch.zeros(shape)
    for placed in terms:
        dim, start, length = placed.at or (0, 0, shape[0])
        total.narrow(dim, start, length).add_(placed.term.delta_weight().cpu())
    return total


def is_linear(module: nn.Module) -> bool:
    """Whether `module` maps features linearly; a host's quantised layers do without being `nn.Linear`."""
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def is_linear_or_conv(module: nn.Module) -> bool:
    """Whether low-rank terms can stand beside `module`."""
    return is_linear(module) or isinstance(module, CONVOLUTION_LAYERS)


class LinearTerms(nn.Module):
    """What one expert adds to the output of one linear or convolution module."""

    def __init__(self, module: nn.Module, placed: Sequence[Placed], dtype: torch.dtype):
        super().__init__()
        shape = tuple(module.weight.shape)
        self.is_conv = isinstance(module, CONVOLUTION_LAYERS)
        weight = [_least(p) for p in placed if p.parameter == "weight"]
        low_rank = [p for p in weight if isinstance(p.term, LowRank)]
        others = [p for p in weight if not isinstance(p.term, LowRank)]
        if getattr(module, "groups", 1) > 1:  # a slice of the outputs would be dealt out to all groups
            others = [p if p.at is None else _whole(p, shape) for p in others]
        sums = [LowRankSum(low_rank, shape, dtype)] if low_rank else []
        self.parts = nn.ModuleList(sums + [SlicedTerm(p, shape, dtype) for p in others])
        bias = [p for p in placed if p.parameter == "bias"]
        self.bias = _frozen(_total(bias, shape[:1]).to(dtype)) if bias else None

    def add_to(self, y: Tensor, x: Tensor, module: nn.Module, factor: float | Tensor = 1.0) -> None:
        """`y += factor * terms(x)` in place; x [rows, ..., in] (or [rows, in, ...] for convolutions), y likewise with
        out; one factor, or one for each row."""
        # The module's own convolution also knows its padding mode, and what seamless tiling made of it.
        conv = partial(module._conv_forward, bias=None) if self.is_conv else plain_conv
        for part in self.parts:
            _add(y, part(x, conv), factor)
        if self.bias is not None:
            bias = self.bias.to(y.device, y.dtype)
            _add(y, bias.reshape(-1, *[1] * (y.ndim - 2)) if self.is_conv else bias, factor)


class ParameterTerms(nn.Module):
    """What one expert changes in parameters that are no layer's matrix: `deltas`, whole, by the parameter's name."""

    def __init__(self, module: nn.Module, placed: Sequence[Placed], dtype: torch.dtype):
        super().__init__()
        changed = {
            name: [p for p in placed if p.parameter == name] for name in dict.fromkeys(p.parameter for p in placed)
        }
        deltas = {name: _total(terms, getattr(module, name).shape) for name, terms in changed.items()}
        self.deltas = nn.ParameterDict({name: _frozen(delta.to(dtype)) for name, delta in deltas.items()})

    def add_to(self, y: Tensor, x: Tensor, module: nn.Module, factor: float | Tensor = 1.0) -> None:
        """`y += factor * (f(deltas) - f(0))` in place, for a norm f: it is affine in its parameters.

        The parameters it has are left alone: they may be elsewhere, or not even in memory, while weights are streamed.
        """
        shapes = {name: own.shape for name, own in module.named_parameters(recurse=False)}
        without = {name: torch.zeros(shape, device=x.device, dtype=x.dtype) for name, shape in shapes.items()}
        changed = without | {name: delta.to(x.device, x.dtype) for name, delta in self.deltas.items()}
        call = partial(torch.func.functional_call, module, args=(x,))
        _add(y, call(changed) - call(without), factor)


def _is_norm(module: nn.Module) -> bool:
    """Whether `module` is affine in its parameters, row by row; hosts have norms of their own under such names."""
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())


def module_terms(module: nn.Module, placed: Sequence[Placed], dtype: torch.dtype) -> nn.Module:
    """The terms of one expert for one module, in the dtype the model computes in."""
    return (LinearTerms if is_linear_or_conv(module) else ParameterTerms)(module, placed, dtype)


@dataclass(frozen=True)
class Assignment:
    """Rows `[start, stop)` of the batch run with the terms of the expert numbered `expert`, times `factor`: a number,
    or a tensor [stop - start] with one for each row."""

    expert: int
    start: int
    stop: int
    factor: float | Tensor = 1.0


class _RowForward:
    """The forward of one module while terms are attached to it.

    A module whose parameters are `read_directly`, by whatever is around it, cannot be told about rows: its parameters
    are swapped for a call whose rows are all the expert's.
    """

    def __init__(self, owner: RowTerms, name: str, module: nn.Module, experts: Mapping[int, nn.Module]):
        self.owner, self.name, self.module, self.experts = owner, name, module, experts
        self.plain = MethodType(type(module).forward, module)
        self.inner: Any = self.plain
        self.nested = False
        self.entered = False
        self.on_parameters = any(isinstance(terms, ParameterTerms) for terms in experts.values())
        self.read_directly = self.on_parameters and not _is_norm(module)

    def attach(self) -> Any:
        """Puts this forward on the module, around an instance forward another pack set; returns that one or None."""
        previous = self.module.__dict__.get("forward")
        self.inner = previous or self.plain
        self.nested = self.entered = False
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
        if self.nested:  # the terms themselves call the module
            return y
        self.nested = self.entered = True
        for assignment, rows in self.owner.rows(self.name, x.shape[0], y.shape[0]):
            terms = self.experts.get(assignment.expert)
            if terms is not None:
                terms.add_to(y[rows], x[rows], self.module, assignment.factor)
                self.owner.applied += 1
        self.nested = False
        return y

    def swapped(
        self, assignments: Sequence[Assignment], total: int, device: torch.device | None
    ) -> dict[str, nn.Parameter]:
        """Parameters as they are for the rows of `assignments`, on `device`; None: where the module has them.

        Raises `RowsNotSeparable` unless each assignment is of all `total` rows, with one factor.
        """
        if any(rows.stop - rows.start < total or isinstance(rows.factor, Tensor) for rows in assignments):
            raise RowsNotSeparable(f"the parameters of {self.name} are the same for all rows of a call")
        values: dict[str, Tensor] = {}
        for rows in assignments:
            for name, delta in self.experts[rows.expert].deltas.items():
                before = values.get(name, getattr(self.module, name).float())
                values[name] = (
                    before.to(device or before.device) + rows.factor * delta.to(device or before.device).float()
                )
        return {name: _frozen(value.to(getattr(self.module, name).dtype)) for name, value in values.items()}


class RowTerms:
    """The terms of several experts, by the expert's number and the module's name, for one model.

    `device` is where parameters go that have to be swapped; None leaves them where they are. `applied` counts the
    applications since the last `attached`, which put terms on the forwards of `waiting` modules: a caller that finds none
    applied where some were waiting knows that the model ran without its terms.
    """

    def __init__(
        self, root: nn.Module, experts: Mapping[int, Mapping[str, nn.Module]], device: torch.device | None = None
    ):
        self.forwards = []
        for name in dict.fromkeys(name for terms in experts.values() for name in terms):
            by_expert = {number: terms[name] for number, terms in experts.items() if name in terms}
            self.forwards.append(_RowForward(self, name, root.get_submodule(name), by_expert))
        self.device = device
        self.assignments: Sequence[Assignment] = ()
        self.total = 0
        self.waiting = 0
        self.applied = 0

    def rows(self, name: str, given: int, returned: int) -> list[tuple[Assignment, slice]]:
        """The rows of each assignment in a module that is given and returns so many.

        Where every assignment is of all rows they need no telling apart. Raises `RowsNotSeparable` where rows are folded.
        """
        if given == returned == self.total:
            return [(rows, slice(rows.start, rows.stop)) for rows in self.assignments]
        if all(
            rows.stop - rows.start == self.total and not isinstance(rows.factor, Tensor) for rows in self.assignments
        ):
            return [(rows, slice(None)) for rows in self.assignments]
        raise RowsNotSeparable(f"{name} sees {given} rows, expected {self.total}")

    @contextmanager
    def attached(self, assignments: Sequence[Assignment], total: int) -> Iterator[None]:
        """Runs the model inside with the terms of each assignment on its rows, of `total` rows in all.

        Raises `RowsNotSeparable` where the terms of a module need a call of their own.
        """
        self.assignments, self.total, self.applied = assignments, total, 0
        wanted = {rows.expert for rows in assignments}
        attached: list[tuple[_RowForward, Any]] = []
        swapped: list[tuple[_RowForward, str, Tensor]] = []
        try:
            for forward in self.forwards:
                if not wanted & forward.experts.keys():
                    continue
                if not forward.read_directly:
                    attached.append((forward, forward.attach()))
                    continue
                own = [rows for rows in assignments if rows.expert in forward.experts]
                for name, value in forward.swapped(own, total, self.device).items():
                    swapped.append((forward, name, _exchange(forward.module, name, value)))
            self.waiting = len(attached)
            yield
        finally:
            for forward, name, value in reversed(swapped):
                _exchange(forward.module, name, value)
            for forward, previous in reversed(attached):
                forward.detach(previous)

    def passed_by(self) -> list[str]:
        """Names of norms whose forward did not run in the last call: what is around them may have read their parameters.

        From here on those parameters are swapped. None where no layer ran either: then the whole model was passed by.
        """
        wanted = {rows.expert for rows in self.assignments}
        waiting = [f for f in self.forwards if not f.read_directly and wanted & f.experts.keys()]
        if not self.applied and not all(f.on_parameters for f in waiting):
            return []
        found = [f for f in waiting if f.on_parameters and not f.entered]
        for forward in found:
            forward.read_directly = True
        return [forward.name for forward in found]


def _exchange(module: nn.Module, name: str, value: Tensor) -> Tensor:
    """Puts `value` in the place of the parameter or buffer `name`; returns what was there."""
    kind = module._parameters if name in module._parameters else module._buffers
    previous, kind[name] = kind[name], value
    return previous
