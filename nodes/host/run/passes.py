"""Evaluates base and experts for each call of the model: in one batched pass if they share weights, or one each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....rlg_core.combine import Weight
from ....rlg_core.errors import RowsNotSeparable, RunError
from ....rlg_core.rows import Assignment, BlockWatch, RowTerms
from ..compat import compute_dtype, is_answered_by_uuid, is_norm, is_out_of_memory, without_injections
from ..models.relation import Relation, SharedWeights
from .calls import BASE, MERGED, ModelCall
from .idle import IdleLayers
from .memory import missing_room
from .randomness import SameStart, same_for_every_pass
from .remembered import NetworkAttributes, Remembered
from .skipped import begin_anew
from .verification import AGREES, UNKNOWN, Verdict, Verdicts, error_of, explained, negligible
from .wholeness import Ran, Wholeness, require_same_functions

log = logging.getLogger(__name__)


class Passes:
    """What one run knows of evaluating the base and its experts, by their roles.

    `function_wrapper` is what another node has put around the calls of the model (`model_function_wrapper`), or None.
    """

    def __init__(
        self,
        patcher: ModelPatcher,
        relations: Mapping[int, Relation],
        batching: str = "auto",
        function_wrapper: Callable[..., Any] | None = None,
    ):
        self.model, self.batching, self.dtype = patcher.model, batching, compute_dtype(patcher)
        own = {
            role: relation.patcher for role, relation in relations.items() if not isinstance(relation, SharedWeights)
        }
        self.own: dict[int, BaseModel] = {role: own[role].model for role in own}
        self.devices = {role: own[role].load_device for role in own}
        banks = {role: relation.bank for role, relation in relations.items() if isinstance(relation, SharedWeights)}
        by_name = {role: bank.by_name() for role, bank in banks.items()}
        with without_injections(self.model):
            self.terms = RowTerms(self.model, by_name, is_norm, patcher.load_device)
        networks = {BASE: self.model.diffusion_model} | {k: m.diffusion_model for k, m in self.own.items()}
        self.networks, self.object_patches = networks, patcher.object_patches
        self.watches = {role: BlockWatch(network) for role, network in networks.items()}
        self.idle = IdleLayers(self.model, self.watches[BASE])
        around = dict(patcher.object_patches) | ({"function wrapper": function_wrapper} if function_wrapper else {})
        self.around = [function for function in around.values() if callable(function)]
        if self.around:  # only then may the networks' own attributes be written to
            self.around += [NetworkAttributes(network) for network in networks.values()]
        self.remembered, self.last, self.wholeness = Remembered(), None, Wholeness()
        self.kept = Verdicts(self.model, tuple(bank.names for bank in banks.values()), around)
        # Of this run. Looked up once per kind of call, as some patches are made anew for every call (GLIGEN's).
        self.verdicts: dict[Hashable, Verdict] = {}
        self.latest: Hashable = None
        self.told = False

    @contextmanager
    def in_a_run(self) -> Iterator[None]:
        """For the time of a run. Picks up what other nodes kept in the last run of this model, and keeps it again."""
        self.last = _last.pop(self.model, None)
        try:
            yield
        finally:
            left = self.remembered.rest()
            if left is not None:
                _last[self.model] = left

    @contextmanager
    def turn(self, call: ModelCall, shares: Mapping[int, Weight]) -> Iterator[Turn]:
        """The passes of one call, each of which sees the same random numbers. `shares` are the `MERGED` experts'."""
        with same_for_every_pass(call.x.device) as randomness:
            turn = Turn(self, call, shares, randomness)
            if self.last is not None and self.last.goes_on(turn.roots):
                self.remembered = self.last
            self.last = None
            yield turn

    def verdict(self, call: ModelCall, kind: Hashable) -> Verdict:
        if kind not in self.verdicts:
            self.verdicts[kind] = self.kept.recall(call, kind)
        return self.verdicts[kind]

    def settle(self, call: ModelCall, kind: Hashable, verdict: Verdict) -> None:
        """Keeps a verdict for this run and for later ones; one against batching is told."""
        self.verdicts[kind] = verdict
        self.kept.keep(call, kind, verdict)
        if verdict != AGREES:
            log.warning("RLG: base and RL model run in separate passes, at twice the weight traffic (%s).", verdict)

    def make_room(self, kind: Hashable, reason: Verdict) -> None:
        """Has this run go on in separate passes, for want of memory, which the next run may have again."""
        self.verdicts[kind] = reason
        log.warning("RLG: base and RL model run in separate passes from here on (%s).", reason)
        comfy.model_management.soft_empty_cache()

    def fits(self, call: ModelCall) -> bool:
        """Whether the rows of all roles may run at once."""
        if self.batching != "auto":
            return self.batching == "batched"
        reason = missing_room(self.model, call)
        if reason is not None and not self.told:
            self.told = True
            log.info("RLG: base and RL model run in separate passes: %s.", reason)
        return reason is None


_last: WeakKeyDictionary[BaseModel, Remembered] = WeakKeyDictionary()
"""What other nodes kept in the last run of a model, if anything."""


class Turn:
    """The passes of one call of the model, and which blocks ran in each."""

    def __init__(self, passes: Passes, call: ModelCall, shares: Mapping[int, Weight], randomness: SameStart):
        self.passes, self.call, self.shares, self.randomness = passes, call, shares, randomness
        # Where other nodes may keep state from one call to the next; nowhere in most graphs.
        self.roots = [*call.state_roots(), *passes.around]
        self.by_uuid = is_answered_by_uuid(call.transformer_options)
        self.ran: dict[Hashable, Ran] = {}

    # What a step asks for

    def evaluate(self, roles: Sequence[int]) -> dict[int, Tensor]:
        """The denoised prediction of each of `roles`, [rows, ...]. Raises `RunError` where one did not run whole."""
        before = self.passes.latest
        own = {role: self._single(role) for role in roles if role in self.passes.own}
        predictions = own | self._sharing([role for role in roles if role not in own])
        self.passes.wholeness.require_whole(
            self.call.signature(),
            self.ran,
            before,
            self.by_uuid,
            kept_apart=self.passes.remembered.keeps_tensors,
            stateless=not self.passes.around,
        )
        return predictions

    def linearised(self, weights: Mapping[int, Weight]) -> Tensor:
        """One evaluation of the base with every expert's terms at its weight: the mean to first order in the terms."""
        return self._whole(self.call.for_role(min(weights), "linearised"), self._at(weights, 0), "linearised")

    # One pass or several

    def _sharing(self, roles: Sequence[int]) -> dict[int, Tensor]:
        """The predictions of roles that share one copy of the weights."""
        passes, kind = self.passes, (tuple(roles), self.call.prompts(), self.call.signature())
        if len(roles) < 2 or not passes.fits(self.call) or passes.verdict(self.call, kind) != UNKNOWN:
            return self._separate(roles)
        batched, verdict, lasts = self._tried(roles, kind)
        if verdict == AGREES:
            return batched
        if not lasts:
            passes.make_room(kind, verdict)
        begin_anew(self.call)
        predictions = self._separate(roles)
        if lasts:  # now that they have run: what stops them too says nothing about the batch
            passes.settle(self.call, kind, verdict)
        return predictions

    def _tried(self, roles: Sequence[int], kind: Hashable) -> tuple[dict[int, Tensor], Verdict, bool]:
        """The predictions of a batched pass, whether they can be trusted, and whether that holds for later runs too.

        No exception outlives this method: its traceback would hold the failed pass's activations, and the separate
        passes could run out of memory too.
        """
        try:
            batched = self._batched(roles)
            return batched, self._verdict(batched, roles, kind), True
        except RunError:
            raise
        except RowsNotSeparable as error:
            return {}, str(error), True
        except RuntimeError as error:
            if is_out_of_memory(error):
                return {}, str(error), False
            # A model that refuses a repeated batch may still take the rows as they came; if not, that pass raises.
            return {}, f"the batch of base and RL rows failed: {error}", True

    def _verdict(self, batched: dict[int, Tensor], roles: Sequence[int], kind: Hashable) -> Verdict:
        """Whether the batched pass can be trusted. A pass that left out other blocks than before is verified anew."""
        passes, ran = self.passes, self.ran[tuple(roles)]
        if not ran and self.by_uuid:  # a cache answered for all rows
            return AGREES
        if passes.remembered.keeps_tensors:
            return "another node keeps activations from call to call"
        verdict = passes.verdict(self.call, (kind, ran))
        if verdict == UNKNOWN:
            verdict = self._compared(batched, roles)
            if verdict == AGREES:
                passes.settle(self.call, (kind, ran), verdict)
        return verdict

    def _compared(self, batched: dict[int, Tensor], roles: Sequence[int]) -> Verdict:
        """Whether separate passes confirm a batched one, up to the rounding of this model and batch."""
        separate, dtype = self._separate(roles, "verification"), self.passes.dtype
        error = error_of(batched, separate)
        if error <= negligible(separate, dtype):
            return AGREES
        expert = next(role for role in roles if role != BASE)
        repeated = self._rows_of([expert] * len(roles), "rounding")
        # The least: rounding is in all of the rows, another node's mistake may be in some.
        rounding = min(error_of({0: rows}, {0: separate[expert]}) for rows in repeated)
        return explained(error, rounding, separate, dtype)

    def _batched(self, roles: Sequence[int]) -> dict[int, Tensor]:
        return dict(zip(roles, self._rows_of(roles)))

    def _rows_of(self, roles: Sequence[int], purpose: str = "") -> tuple[Tensor, ...]:
        """One pass over `[rows of the first role | rows of the second | ...]`."""
        owner = (purpose, *roles) if purpose else tuple(roles)
        assignments = [assignment for place, role in enumerate(roles) for assignment in self._terms(role, place)]
        return self._run(self.call.for_roles(roles, purpose), assignments, owner).split(self.call.rows)

    def _terms(self, role: int, place: int = 0) -> list[Assignment]:
        """The terms of a role for the rows that stand at `place` in a batch."""
        if role == BASE or role in self.passes.own:
            return []
        return self._at(self.shares if role == MERGED else {role: 1.0}, place)

    def _at(self, strengths: Mapping[int, Weight], place: int) -> list[Assignment]:
        """Experts' terms at the given strengths, one number or one per row."""
        start, stop = place * self.call.rows, (place + 1) * self.call.rows
        factors = {role: s.flatten() if isinstance(s, Tensor) else s for role, s in strengths.items()}
        return [Assignment(role, start, stop, factor) for role, factor in factors.items()]

    def _separate(self, roles: Sequence[int], purpose: str = "") -> dict[int, Tensor]:
        """The base comes last: nodes that remember the latest call (SAG its attention) remember the base's, as they do
        where the rows of the base are the first of a batch."""
        predictions = {role: self._single(role, purpose) for role in reversed(roles)}
        return {role: predictions[role] for role in roles}

    def _single(self, role: int, purpose: str = "") -> Tensor:
        """One role's pass."""
        call, owner = self.call.for_role(role, purpose), (purpose, role) if purpose else role
        if role in self.passes.own:
            networks = self.passes.networks
            require_same_functions(networks[BASE], networks[role], self.passes.object_patches)
            return self._run(call.on(self.passes.own[role], self.passes.devices[role]), [], owner, role)
        return self._whole(call, self._terms(role), owner)

    def _whole(self, call: ModelCall, assignments: Sequence[Assignment], owner: Hashable) -> Tensor:
        """A pass whose rows all have the same terms, so that there is nothing to tell apart."""
        try:
            return self._run(call, assignments, owner)
        except RowsNotSeparable as error:
            raise RunError(f"The terms of the RL model could not be applied: {error}.") from error

    # Running a pass

    def _run(self, call: ModelCall, assignments: Sequence[Assignment], owner: Hashable, network: int = BASE) -> Tensor:
        """Runs one pass for `owner`, who finds other nodes' state as it left it."""
        passes = self.passes
        passes.remembered.hand_over(owner, self.roots)
        with (
            passes.watches[network].watching() as ran,
            passes.terms.attached(assignments, call.rows) as seen,
            self.randomness.one_pass(call.device),
            passes.idle.reads() as read,
        ):
            prediction = call.run()
        passes.remembered.look(self.roots)  # before anything runs again: it would take what is there for older
        passed_by = passes.terms.passed_by(seen)
        if passed_by:  # from here on their parameters are swapped, in this pass too
            passes.terms.swap(passed_by)
            return self._run(call, assignments, owner, network)
        idle = passes.idle.of(seen, ran)
        if passes.idle.add(idle):  # from here on it is seen who reads their weights, in this pass too
            return self._run(call, assignments, owner, network)
        passes.idle.require_unread(seen, idle, read)
        self.ran[owner], passes.latest = frozenset(ran), owner
        passes.wholeness.require_terms(self.call.signature(), seen, self.ran[owner], self.by_uuid)
        return prediction
