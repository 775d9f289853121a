"""Evaluates base and experts that share one copy of the weights: one batched pass, or one pass for each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import comfy.model_management
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....rlg_core.combine import Weight
from ....rlg_core.errors import RowsNotSeparable, RunError
from ....rlg_core.rows import Assignment, Pass, RowTerms
from ..compat import OUT_OF_MEMORY, compute_dtype, is_norm
from ..models.relation import SharedWeights
from .calls import BASE, ModelCall
from .memory import missing_room
from .verification import UNKNOWN, Verdict, Verdicts, disagreement

log = logging.getLogger(__name__)

VERIFICATION = "verification"


class SharedPasses:
    """One run's evaluations of `model` with and without the terms of its experts, by their roles."""

    def __init__(self, patcher: ModelPatcher, relations: Mapping[int, SharedWeights], batching: str = "auto"):
        self.model, self.batching = patcher.model, batching
        banks = {role: relation.bank for role, relation in relations.items()}
        self.terms = RowTerms(
            self.model, {role: bank.by_name() for role, bank in banks.items()}, is_norm, patcher.load_device
        )
        self.memory = Verdicts(patcher, tuple(bank.names for bank in banks.values()))
        # Looked up once per kind of call: some patches are made anew for every call (GLIGEN's).
        self.verdicts: dict[tuple, Verdict] = {}
        self.applications: dict[tuple, int] = {}
        self.told = False

    def evaluate(self, call: ModelCall, roles: Sequence[int]) -> dict[int, Tensor]:
        """The denoised prediction of each of `roles`, [rows, ...]."""
        if len(roles) < 2 or self.batching == "sequential" or not self._fits(call):
            return self._separate(call, roles)
        kind = (tuple(roles), call.signature())
        try:
            return self._by_verdict(call, roles, kind)
        except (RowsNotSeparable, OUT_OF_MEMORY) as error:
            self.verdicts[kind] = str(error)  # for this run: memory may be back in the next one
            log.warning("RLG: base and RL model run in separate passes from here on (%s).", error)
        comfy.model_management.soft_empty_cache()
        return self._separate(call, roles)

    def linearised(self, call: ModelCall, weights: Mapping[int, Weight]) -> Tensor:
        """One evaluation of the base with every expert's terms at its weight: the mean to first order in the terms."""
        factors = {role: weight.flatten() if isinstance(weight, Tensor) else weight for role, weight in weights.items()}
        assignments = [Assignment(role, 0, call.rows, factor) for role, factor in factors.items()]
        return self._whole(call.for_role(min(weights), "linearised"), assignments, ("linearised", *weights))

    # One pass or several

    def _by_verdict(self, call: ModelCall, roles: Sequence[int], kind: tuple) -> dict[int, Tensor]:
        if kind not in self.verdicts:
            self.verdicts[kind] = self.memory.recall(call, kind)
        verdict = self.verdicts[kind]
        if verdict is None:
            return self._batched(call, roles)[0]
        return self._verified(call, roles, kind) if verdict is UNKNOWN else self._separate(call, roles)

    def _verified(self, call: ModelCall, roles: Sequence[int], kind: tuple) -> dict[int, Tensor]:
        """The batched result if separate passes confirm it, else theirs; the verdict is kept."""
        try:
            batched, seen = self._batched(call, roles)
        except OUT_OF_MEMORY:
            raise
        except RowsNotSeparable as error:
            verdict = str(error)
        except RuntimeError as error:
            # A model that refuses a repeated batch may still take the rows as they came; if not, that pass raises.
            verdict = f"the batch of base and RL rows failed: {error}"
        else:
            if not seen.applied:
                return batched  # a cache of another node answered: there is nothing to verify yet
            separate = self._separate(call, roles, VERIFICATION)
            verdict = disagreement(batched, separate, compute_dtype(self.model))
        self.verdicts[kind] = verdict
        self.memory.keep(call, kind, verdict)
        if verdict is None:
            return batched
        log.warning("RLG: base and RL model run in separate passes, at twice the weight traffic (%s).", verdict)
        return self._separate(call, roles)

    def _batched(self, call: ModelCall, roles: Sequence[int]) -> tuple[dict[int, Tensor], Pass]:
        rows = call.rows
        assignments = [Assignment(role, k * rows, (k + 1) * rows) for k, role in enumerate(roles) if role != BASE]
        prediction, seen = self._run(call.for_roles(roles), assignments, ("batched", *roles))
        return dict(zip(roles, prediction.split(rows))), seen

    def _separate(self, call: ModelCall, roles: Sequence[int], purpose: str = "") -> dict[int, Tensor]:
        """The base comes last: nodes that remember the latest call (SAG its attention) remember the base's, as they do
        where the rows of the base are the first of a batch."""
        predictions = {role: self._single(call.for_role(role, purpose), role) for role in reversed(roles)}
        return {role: predictions[role] for role in roles}

    def _single(self, call: ModelCall, role: int) -> Tensor:
        return call.run() if role == BASE else self._whole(call, [Assignment(role, 0, call.rows)], ("single", role))

    def _whole(self, call: ModelCall, assignments: Sequence[Assignment], passes: tuple) -> Tensor:
        """A pass whose rows all have the same terms, so that there is nothing to tell apart."""
        try:
            return self._run(call, assignments, passes)[0]
        except RowsNotSeparable as error:
            raise RunError(f"The terms of the RL model could not be applied: {error}.") from error

    # Running a pass

    def _run(self, call: ModelCall, assignments: Sequence[Assignment], passes: tuple) -> tuple[Tensor, Pass]:
        with self.terms.attached(assignments, call.rows) as seen:
            prediction = call.run()
        passed_by = self.terms.passed_by(seen)
        if passed_by:  # from here on their parameters are swapped, in this pass too
            self.terms.swap(passed_by)
            return self._run(call, assignments, passes)
        self._require_applied((passes, call.signature()), seen)
        return prediction, seen

    def _require_applied(self, kind: tuple, seen: Pass) -> None:
        """Terms that never ran would leave the base's picture under the RL model's name.

        None at all is right only if none were attached (all are in swapped parameters), or if a cache of another node
        answered for the whole model, after a call that ran.
        """
        if seen.applied == 0 and (not seen.watched or any(self.applications.values())):
            return
        expected = self.applications.setdefault(kind, seen.applied)
        if seen.applied not in (0, expected) or expected == 0:
            raise RunError(
                f"{seen.applied} terms of the RL model were applied in a model call, expected {expected or 'some'}. "
                "The model may have been compiled before RLG was attached: compile it with ComfyUI's TorchCompileModel "
                "node. Or another node replaces its layers: remove that node or RLG."
            )

    def _fits(self, call: ModelCall) -> bool:
        reason = None if self.batching == "batched" else missing_room(self.model, call)
        if reason is not None and not self.told:
            self.told = True
            log.info("RLG: base and RL model run in separate passes: %s.", reason)
        return reason is None
