"""What one expert changes in one module, in a form that can stand beside the module."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..algebra import Conv, LowRank, Placed, low_rank_product, plain_conv, total_delta

CONVOLUTION_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)


def _add(y: Tensor, addition: Tensor, factor: float | Tensor) -> None:
    """`y += factor * addition` in place; the factor is one number, or one per row of `y`."""
    if isinstance(factor, Tensor):
        y.add_(addition * _per_row(factor, y))
    else:
        y.add_(addition, alpha=factor)


def _per_row(factor: Tensor, y: Tensor) -> Tensor:
    """`factor` [rows] in the dtype of `y` [rows, ...], to multiply it by."""
    return factor.to(y.dtype).reshape(-1, *[1] * (y.ndim - 1))


def is_linear_or_conv(module: nn.Module) -> bool:
    """Whether terms can stand beside `module`. A host's quantised layers need not be an `nn.Linear`."""
    is_linear = hasattr(module, "in_features") and hasattr(module, "out_features")
    return is_linear or isinstance(module, CONVOLUTION_LAYERS)


class LowRankSum(nn.Module):
    """All low-rank terms of one module as one down- and one up-matrix, with their scales folded in.

    `down` [R, in, *kernel], `up` [out, R]; a term on a slice has zeros outside it.
    """

    def __init__(self, terms: Sequence[Placed], shape: tuple[int, ...], dtype: torch.dtype):
        super().__init__()
        whole = [placed.on_whole(shape).term.without_mid() for placed in terms]
        self.down = _frozen(torch.cat([term.down.to(dtype) for term in whole]))
        self.up = _frozen(torch.cat([(term.up.flatten(1).float() * term.scale).to(dtype) for term in whole], dim=1))

    def add_to(self, y: Tensor, x: Tensor, conv: Conv, factor: float | Tensor) -> None:
        down, up = (matrix.to(x.device, x.dtype) for matrix in (self.down, self.up))
        if down.ndim > 2 or y.dtype != x.dtype or not y.is_contiguous():
            _add(y, low_rank_product(x, down, up, conv), factor)
            return
        # The second product adds to the output itself: one operation less per module, and no pass over an output more.
        inner = functional.linear(x, down)
        if isinstance(factor, Tensor):
            inner, factor = inner * _per_row(factor, inner), 1.0
        y.view(-1, y.shape[-1]).addmm_(inner.reshape(-1, inner.shape[-1]), up.T, alpha=factor)


class OtherTerm(nn.Module):
    """One term of another kind (dense, Kronecker). Its tensors are parameters, so that a host can move them."""

    def __init__(self, placed: Placed, shape: tuple[int, ...], dtype: torch.dtype):
        super().__init__()
        self.at, self.out = placed.at, shape[0]
        self.channel = -1 if len(shape) == 2 else 1
        self.kind = type(placed.term)
        fields = vars(placed.term)
        self.tensors = nn.ParameterDict({k: _frozen(v.to(dtype)) for k, v in fields.items() if isinstance(v, Tensor)})
        self.rest = {k: v for k, v in fields.items() if not isinstance(v, Tensor)}

    def add_to(self, y: Tensor, x: Tensor, conv: Conv, factor: float | Tensor) -> None:
        _add(y, self._applied(x, conv), factor)

    def _applied(self, x: Tensor, conv: Conv) -> Tensor:
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


class LinearTerms(nn.Module):
    """What one expert adds to the output of one linear or convolution module."""

    def __init__(self, module: nn.Module, placed: Sequence[Placed], dtype: torch.dtype):
        super().__init__()
        shape = tuple(module.weight.shape)
        self.is_conv = isinstance(module, CONVOLUTION_LAYERS)
        weight = [Placed(p.parameter, p.term.cheapest(), p.at) for p in placed if p.parameter == "weight"]
        low_rank = [p for p in weight if isinstance(p.term, LowRank)]
        others = [p for p in weight if not isinstance(p.term, LowRank)]
        if getattr(module, "groups", 1) > 1:  # the outputs of a slice would be distributed over all groups
            others = [p.on_whole(shape) for p in others]
        sums = [LowRankSum(low_rank, shape, dtype)] if low_rank else []
        self.terms = nn.ModuleList(sums + [OtherTerm(p, shape, dtype) for p in others])
        bias = [p for p in placed if p.parameter == "bias"]
        self.bias = _frozen(total_delta(bias, shape[:1]).to(dtype)) if bias else None

    def add_to(self, y: Tensor, x: Tensor, module: nn.Module, factor: float | Tensor = 1.0) -> None:
        """`y += factor * terms(x)` in place.

        `x` is [rows, ..., in], or [rows, in, ...] for convolutions, and `y` the same with out for in. `factor` is one
        number, or one per row.
        """
        # The module's own convolution also knows its padding mode, which seamless tiling changes.
        conv = partial(module._conv_forward, bias=None) if self.is_conv else plain_conv
        for term in self.terms:
            term.add_to(y, x, conv, factor)
        if self.bias is not None:
            bias = self.bias.to(y.device, y.dtype)
            _add(y, bias.reshape(-1, *[1] * (y.ndim - 2)) if self.is_conv else bias, factor)


class ParameterTerms(nn.Module):
    """What one expert changes in a module that is no linear layer or convolution: `deltas` by the parameter's name."""

    def __init__(self, module: nn.Module, placed: Sequence[Placed], dtype: torch.dtype):
        super().__init__()
        names = dict.fromkeys(p.parameter for p in placed)
        by_name = {name: [p for p in placed if p.parameter == name] for name in names}
        deltas = {name: total_delta(own, tuple(getattr(module, name).shape)) for name, own in by_name.items()}
        self.deltas = nn.ParameterDict({name: _frozen(delta.to(dtype)) for name, delta in deltas.items()})

    def add_to(self, y: Tensor, x: Tensor, module: nn.Module, factor: float | Tensor = 1.0) -> None:
        """`y += factor * (f(deltas) - f(0))` in place, for a norm f, which is affine in its parameters.

        The module's own parameters are not read: while weights are streamed they may be elsewhere, or not in memory.
        """
        shapes = {name: own.shape for name, own in module.named_parameters(recurse=False)}
        without = {name: torch.zeros(shape, device=x.device, dtype=x.dtype) for name, shape in shapes.items()}
        changed = without | {name: delta.to(x.device, x.dtype) for name, delta in self.deltas.items()}
        call = partial(torch.func.functional_call, module, args=(x,))
        _add(y, call(changed) - call(without), factor)


ModuleTerms = LinearTerms | ParameterTerms


def module_terms(module: nn.Module, placed: Sequence[Placed], dtype: torch.dtype) -> ModuleTerms:
    """The terms of one expert for one module, in the dtype the model computes in."""
    return (LinearTerms if is_linear_or_conv(module) else ParameterTerms)(module, placed, dtype)
