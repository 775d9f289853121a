"""One call of the model on its way from weights to the prediction that the sampler gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ....rlg_core.combine import Weight, base_weight, is_zero
from .calls import BASE, ModelCall


def needed_roles(weights: Sequence[Weight]) -> list[int]:
    """The roles whose predictions count at these weights of the experts: 0 for the base, k for expert k."""
    coefficients = [base_weight(weights), *weights]
    return [role for role, weight in enumerate(coefficients) if not is_zero(weight)]


@dataclass
class Step:
    """What one call is asked for, and its results so far.

    `weights` are the experts' w_k, and `roles` those whose predictions count. `predictions` holds the denoised
    prediction of each, [rows, ...]. `evaluated` are the roles that the model ran for, fewer than `roles` if a budget
    read the base off the RL model. `linearised` is the check of a trace, and `mean` the result.
    """

    call: ModelCall
    weights: Sequence[Weight]
    roles: list[int] = field(init=False)
    predictions: dict[int, Tensor] = field(default_factory=dict)
    evaluated: list[int] = field(default_factory=list)
    linearised: Tensor | None = None
    mean: Tensor | None = None

    def __post_init__(self) -> None:
        self.roles = needed_roles(self.weights)

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

    def weight(self, role: int) -> Weight:
        return self.weights[role - 1]

    def expert_weights(self) -> dict[int, Weight]:
        return {role: self.weight(role) for role in self.experts}
