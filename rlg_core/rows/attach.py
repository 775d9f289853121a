"""Attaches terms to the modules of a model for one call, those of each expert to its own rows of the batch.

Nothing stays on a module outside `RowTerms.attached`: an instance `forward` is set on entry and removed on exit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RowsNotSeparable
from .terms import ModuleTerms, ParameterTerms


@dataclass(frozen=True)
class Assignment:
    """Rows `[start, stop)` of the batch run with the terms of the expert numbered `expert`, times `factor`.

    The factor is one number, or a tensor [stop - start] with a number per row.
    """

    expert: int
    start: int
    stop: int
    factor: float | Tensor = 1.0


@dataclass
class Pass:
    """One call of the model with terms attached: what was asked for, and what happened in it.

    `watched` are the modules whose forward was watched, `ran` those of them that ran, and `applied` counts applications
    of terms. If modules are watched and none of them ran, the caller knows that the model did not run.
    """

    assignments: Sequence[Assignment]
    total: int
    watched: frozenset[str] = frozenset()
    ran: set[str] = field(default_factory=set)
    applied: int = 0

    def covers_all(self, assignments: Sequence[Assignment]) -> bool:
        """Whether each of `assignments` covers all rows with a single factor, so that no rows need telling apart."""
        return all(rows.stop - rows.start == self.total and not isinstance(rows.factor, Tensor) for rows in assignments)

    def rows(self, name: str, given: int, returned: int) -> list[tuple[Assignment, slice]]:
        """The rows of each assignment in a module that takes `given` rows and returns `returned`.

        Raises `RowsNotSeparable` if the module has folded rows away.
        """
        if given == returned == self.total:
            return [(rows, slice(rows.start, rows.stop)) for rows in self.assignments]
        if self.covers_all(self.assignments):
            return [(rows, slice(None)) for rows in self.assignments]
        raise RowsNotSeparable(f"{name} sees {given} rows, expected {self.total}")


@dataclass(frozen=True)
class _Site:
    """A module and the terms of each expert for it."""

    name: str
    module: nn.Module
    experts: Mapping[int, ModuleTerms]

    @property
    def on_parameters(self) -> bool:
        return any(isinstance(terms, ParameterTerms) for terms in self.experts.values())

    def changed_parameters(self, call: Pass, device: torch.device | None) -> dict[str, nn.Parameter]:
        """The parameters with the changes of the experts in `call`, on `device` (None: where the module has them).

        Raises `RowsNotSeparable` unless each assignment covers all rows with a single factor.
        """
        own = [rows for rows in call.assignments if rows.expert in self.experts]
        if not call.covers_all(own):
            raise RowsNotSeparable(f"the parameters of {self.name} are the same for all rows of a call")
        values: dict[str, Tensor] = {}
        for rows in own:
            for name, delta in self.experts[rows.expert].deltas.items():
                before = values.get(name, getattr(self.module, name).float())
                on = device or before.device
                values[name] = before.to(on) + rows.factor * delta.to(on).float()
        return {
            name: nn.Parameter(value.to(getattr(self.module, name).dtype), requires_grad=False)
            for name, value in values.items()
        }


class _Forward:
    """The forward of one module during one pass."""

    def __init__(self, site: _Site, call: Pass):
        self.site, self.call = site, call
        # An instance forward that another pack has set keeps working inside this one.
        self.previous = site.module.__dict__.get("forward")
        self.inner: Callable[..., Tensor] = self.previous or MethodType(type(site.module).forward, site.module)
        self.nested = False

    def attach(self) -> None:
        # Straight into __dict__: nn.Module.__setattr__ costs more than the rest of the call for small models.
        self.site.module.__dict__["forward"] = self.forward

    def detach(self) -> None:
        if self.previous is None:
            del self.site.module.__dict__["forward"]
        else:
            self.site.module.__dict__["forward"] = self.previous

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self.inner(x, *args, **kwargs)
        if self.nested:  # the terms themselves call the module
            return y
        self.nested = True
        self.call.ran.add(self.site.name)
        for assignment, rows in self.call.rows(self.site.name, x.shape[0], y.shape[0]):
            terms = self.site.experts.get(assignment.expert)
            if terms is not None:
                terms.add_to(y[rows], x[rows], self.site.module, assignment.factor)
                self.call.applied += 1
        self.nested = False
        return y


class RowTerms:
    """The terms of several experts for one model, by the expert's number and the module's name.

    `is_norm(module)` says whether a module is affine in its parameters, row by row. Changed parameters of other modules
    are swapped for the duration of a call and put on `device` (None leaves them where they are). So are those of the
    norms named to `swap`, whose parameters something around them reads directly.
    """

    def __init__(
        self,
        root: nn.Module,
        experts: Mapping[int, Mapping[str, ModuleTerms]],
        is_norm: Callable[[nn.Module], bool],
        device: torch.device | None = None,
    ):
        self.device = device
        self.sites: list[_Site] = []
        for name in dict.fromkeys(name for terms in experts.values() for name in terms):
            by_expert = {number: terms[name] for number, terms in experts.items() if name in terms}
            self.sites.append(_Site(name, root.get_submodule(name), by_expert))
        self.swapped = {site.name for site in self.sites if site.on_parameters and not is_norm(site.module)}

    @contextmanager
    def attached(self, assignments: Sequence[Assignment], total: int) -> Iterator[Pass]:
        """Attaches the terms of each assignment to its rows of a batch of `total`, while the context lasts.

        Yields a record of the pass. Raises `RowsNotSeparable` if the terms of a module need a pass of their own.
        """
        call = Pass(assignments, total)
        wanted = {rows.expert for rows in assignments}
        forwards: list[_Forward] = []
        exchanged: list[tuple[nn.Module, str, Tensor]] = []
        try:
            for site in self.sites:
                if not wanted & site.experts.keys():
                    continue
                if site.name in self.swapped:
                    for name, value in site.changed_parameters(call, self.device).items():
                        exchanged.append((site.module, name, _exchange(site.module, name, value)))
                else:
                    forwards.append(_Forward(site, call))
                    forwards[-1].attach()
            call.watched = frozenset(forward.site.name for forward in forwards)
            yield call
        finally:
            for module, name, value in reversed(exchanged):
                _exchange(module, name, value)
            for forward in reversed(forwards):
                forward.detach()

    def passed_by(self, call: Pass) -> list[str]:
        """The norms whose forward did not run in `call`: something around them may have read their parameters.

        Empty if no layer ran either: then the whole model was passed by.
        """
        on_parameters = {site.name for site in self.sites if site.on_parameters}
        if not call.applied and not call.watched <= on_parameters:
            return []
        return sorted(call.watched & on_parameters - call.ran)

    def swap(self, names: Sequence[str]) -> None:
        """Swaps the parameters of these modules from now on."""
        self.swapped.update(names)


def _exchange(module: nn.Module, name: str, value: Tensor) -> Tensor:
    """Puts `value` in place of the parameter or buffer `name`; returns what was there."""
    kind = module._parameters if name in module._parameters else module._buffers
    previous, kind[name] = kind[name], value
    return previous
