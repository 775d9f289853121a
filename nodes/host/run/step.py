"""One call of the model on its way from weights to the prediction that the sampler gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ....rlg_core.combine import Weight, base_weight, is_zero
from .calls import BASE, MERGED, ModelCall

LEAST_TOTAL = 0.05
"""Experts whose weights cancel to less than this are not merged: their shares of the total would be huge."""


def needed_roles(weights: Sequence[Weight]) -> list[int]:
    """The roles whose predictions count at these weights of the experts: 0 for the base, k for expert k."""
    coefficients = [base_weight(weights), *weights]
    return [role for role, weight in enumerate(coefficients) if not is_zero(weight)]


@dataclass
class Step:
    """What one call is asked for, and its results so far.

    `weights` are the experts' w_k by role, and `roles` those whose predictions count. `shares` are the experts' parts
    of the `MERGED` role, if there is one. `predictions` holds the denoised prediction of each role, [rows, ...].
    `evaluated` are the roles that the model ran for, fewer than `roles` if a budget read the base off the RL model.
    `risk` has, for each picture, how far off the budget's last skipped steps were, where that showed. `linearised` is
    the check of a trace, and `mean` the result.
    """

    call: ModelCall
    weights: dict[int, Weight]
    roles: list[int]
    shares: Mapping[int, Weight] = field(default_factory=dict)
    predictions: dict[int, Tensor] = field(default_factory=dict)
    evaluated: list[int] = field(default_factory=list)
    risk: list[float] | None = None
    linearised: Tensor | None = None
    mean: Tensor | None = None

    @classmethod
    def of(cls, call: ModelCall, weights: Sequence[Weight], merges_experts: bool, needs_base: bool) -> Step:
        """The step for the experts' `weights`. With `needs_base` no expert counts without the base beside it."""
        roles = needed_roles(weights)
        if needs_base and roles and BASE not in roles:
            roles = [BASE, *roles]
        step = cls(call, dict(enumerate(weights, 1)), roles)
        return step.merged() if merges_experts else step

    def merged(self) -> Step:
        """This step with all its experts as one, where there are several and their weights do not cancel.

        In a batch one item whose weights cancel makes the step exact for all of it.
        """
        total = sum(self.weights[role] for role in self.experts)
        least = total.abs().min() if isinstance(total, Tensor) else abs(total)
        if len(self.experts) < 2 or least < LEAST_TOTAL:
            return self
        shares = {role: self.weights[role] / total for role in self.experts}
        base = [] if is_zero(1.0 - total) else [BASE]
        return Step(self.call, {MERGED: total}, [*base, MERGED], shares)

    @property
    def experts(self) -> list[int]:
        return [role for role in self.roles if role != BASE]

    @property
    def is_mixed(self) -> bool:
        """Whether more than one model has a say."""
        return len(self.roles) > 1

    @property
    def compares(self) -> bool:
        """Whether the base has a say beside an expert."""
        return BASE in self.roles and self.is_mixed

    def terms(self) -> dict[int, Weight]:
        """The strength of each expert's terms that stands for this step to first order."""
        if self.shares:
            return {role: share * self.weights[MERGED] for role, share in self.shares.items()}
        return {role: self.weights[role] for role in self.experts}
