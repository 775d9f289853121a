"""Collects the predictions of one run's calls into trace entries, a step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy.model_sampling import CONST
from torch import Tensor

from ...rlg_core.combine import Weight
from ...rlg_core.kl import flow_step_kl, noise_step_kl
from ...rlg_core.trace import TraceEntry, TraceLog, angle, root_mean_square
from .calls import BASE, ModelCall
from .regions import Regions


class RunTrace:
    """One run's trace. Calls on a part of the latent (areas, windows) or of more than one step are passed over.

    `compared` are the sigmas at which base and RL model both run. A third of the way through them, where guidance tends
    to be strongest, the linearised model is evaluated too: the only evaluation a trace adds.
    """

    def __init__(self, log: TraceLog, guider: Any, sigmas: Sequence[float], clock: Any, compared: Sequence[float]):
        self.log, self.guider, self.sigmas, self.clock = log, guider, sigmas, clock
        self.checked = compared[len(compared) // 3] if compared else None
        self.is_flow = isinstance(guider.model_patcher.get_model_object("model_sampling"), CONST)
        self.pending: dict[str, tuple] = {}
        self.step = -1
        log.entries.clear()

    def checks(self, call: ModelCall, regions: Regions) -> bool:
        """Whether the linearised model is to be evaluated beside this call."""
        return call.sigma == self.checked and self._watches(call, regions)

    def _watches(self, call: ModelCall, regions: Regions) -> bool:
        return call.sigma in self.sigmas[:-1] and tuple(call.x.shape[2:]) == tuple(regions.latent_shape[2:])

    def observe(
        self,
        call: ModelCall,
        regions: Regions,
        predictions: dict[int, Tensor],
        weights: Sequence[Weight],
        mean: Tensor,
        skipped: bool,
        linearised: Tensor | None,
    ) -> None:
        """Adds one call; the step's entries are written once both prompts, or the only one, are in."""
        if not self._watches(call, regions):
            return
        step = self.sigmas.index(call.sigma)
        if step != self.step:
            self.step, self.pending = step, {}
        experts = [part for part in predictions if part != BASE]
        base = predictions.get(BASE, mean)
        rl = predictions[experts[0]] if experts else base
        evaluated = tuple(
            "base" if part == BASE else f"rl {part}" for part in sorted(predictions) if part != BASE or not skipped
        )
        items = regions.items(call)
        scales = _of_rows(weights[experts[0] - 1] if experts else 0.0, call.rows)
        off = None if linearised is None else root_mean_square(linearised - mean) / root_mean_square(call.x - mean)
        errors = [None] * call.rows if off is None else off.tolist()
        for k, (name, *rows) in enumerate(
            zip(regions.prompts(call), *(p.split(items) for p in (call.x, base, rl, mean)))
        ):
            own = slice(k * items, (k + 1) * items)
            self.pending[name] = (*rows, scales[own], errors[own])
        expected = 1 if self.guider.cfg == 1.0 or "negative" not in self.guider.conds else 2
        if len(self.pending) >= expected:
            compared = bool(experts) and BASE in predictions
            self._write(call.sigma, evaluated, compared)

    def _write(self, sigma: float, evaluated: tuple[str, ...], compared: bool) -> None:
        x, base, rl, mean, scales, linearised_errors = self.pending.get("positive") or next(iter(self.pending.values()))
        guided, direction = (base - mean) / sigma, None
        if "negative" in self.pending and "positive" in self.pending:
            _, base_negative, _, mean_negative, *_ = self.pending["negative"]
            negative = (base_negative - mean_negative) / sigma
            direction = (base_negative - base) / sigma
            guided = negative + self.guider.cfg * (guided - negative)
        following = self.sigmas[self.step + 1]
        step_kl = flow_step_kl if self.is_flow else noise_step_kl
        columns = {
            "difference": root_mean_square((base - rl) / sigma),
            "share": root_mean_square(base - mean) / root_mean_square(x - mean),
            "path_kl": step_kl(guided, sigma, following),
        }
        nothing = [None] * len(x)
        angles = nothing if direction is None or not compared else angle(guided, direction).tolist()
        values = {name: column.tolist() if compared else nothing for name, column in columns.items()}
        # A second-order sampler's corrector comes at the next step's sigma, before that step: the step itself counts.
        self.log.entries[:] = [entry for entry in self.log.entries if entry.step != self.step]
        for image in range(len(x)):
            self.log.entries.append(
                TraceEntry(
                    step=self.step,
                    sigma=sigma,
                    percent=self.clock.percent(sigma),
                    image=image,
                    scale=scales[image],
                    angle=angles[image],
                    evaluated=evaluated,
                    linearised_error=linearised_errors[image],
                    **{name: column[image] for name, column in values.items()},
                )
            )
        self.pending = {}


def _of_rows(weight: Weight, rows: int) -> list[float]:
    """The scale of each row, averaged over its region."""
    if not isinstance(weight, Tensor):
        return [weight] * rows
    return weight.flatten(1).mean(1).expand(rows).tolist()
