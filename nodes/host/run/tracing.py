"""Collects the predictions of one run's calls into trace entries, a step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....rlg_core.combine import Weight
from ....rlg_core.kl import path_weights
from ....rlg_core.trace import TraceEntry, TraceLog, angle, root_mean_square
from .calls import BASE, MERGED, Batch
from .regions import Regions
from .scales import Clock
from .step import Step


@dataclass(frozen=True)
class Seen:
    """The rows of one prompt at one step, [items, ...] each, with a scale and a linearised error per item."""

    x: Tensor
    base: Tensor
    rl: Tensor
    mean: Tensor
    scales: list[float]
    linearised_errors: list[float | None]


class RunTrace:
    """One run's trace. Calls for a part of the latent (areas, windows) or at a sigma between the steps are passed over.

    `compared` are the sigmas at which base and RL model both run. A third of the way through them, where guidance tends
    to be strongest, the linearised model is evaluated too: the only evaluation that a trace adds.
    """

    def __init__(
        self,
        log: TraceLog,
        guider: Any,
        sigmas: Sequence[float],
        clock: Clock,
        regions: Regions,
        compared: Sequence[float],
    ):
        self.log, self.guider, self.sigmas, self.clock, self.regions = log, guider, sigmas, clock, regions
        self.checked = compared[len(compared) // 3] if compared else None
        self.kl_weights = path_weights([clock.time(sigma) for sigma in sigmas])
        self.pending: dict[str, Seen] = {}
        self.index = -1

    def begin(self) -> None:
        """Empties the log for this run."""
        self.log.entries.clear()

    def checks(self, step: Step) -> bool:
        """Whether the linearised model is to be evaluated beside this step's."""
        return step.is_mixed and step.call.sigma == self.checked and self._watches(step.call.batch)

    def _watches(self, batch: Batch) -> bool:
        return batch.sigma in self.sigmas[:-1] and tuple(batch.x.shape[2:]) == tuple(self.regions.latent_shape[2:])

    def observe(self, step: Step) -> None:
        """Adds one call. The entries of the step are written once both prompts, or the only one, have been seen."""
        batch = step.call.batch
        if not self._watches(batch):
            return
        index = self.sigmas.index(batch.sigma)
        if index != self.index:
            self.index, self.pending = index, {}
        self.pending |= self._seen(step, batch)
        expected = 1 if self.guider.cfg == 1.0 or "negative" not in self.guider.conds else 2
        if len(self.pending) >= expected:
            self._write(step)

    def _seen(self, step: Step, batch: Batch) -> dict[str, Seen]:
        """What the step showed, by prompt."""
        base = step.predictions.get(BASE, step.mean)
        rl = step.predictions[step.experts[0]] if step.experts else base
        scales = _per_row(step.weights[step.experts[0]] if step.experts else 0.0, step.call.rows)
        errors: list[float | None] = [None] * step.call.rows
        if step.linearised is not None:
            off = root_mean_square(step.linearised - step.mean) / root_mean_square(batch.x - step.mean)
            errors = off.tolist()
        seen = {}
        for k, name in enumerate(self.regions.prompts(batch)):
            own = slice(k * batch.items, (k + 1) * batch.items)
            seen[name] = Seen(batch.x[own], base[own], rl[own], step.mean[own], scales[own], errors[own])
        return seen

    def _write(self, step: Step) -> None:
        sigma, shown = step.call.sigma, self.pending.get("positive") or next(iter(self.pending.values()))
        items = len(shown.x)
        names = ("difference", "norm_ratio", "share", "path_kl", "angle", "risk")
        values: dict[str, list] = dict.fromkeys(names, [None] * items)
        if step.risk is not None:
            values["risk"] = step.risk
        if step.experts and BASE in step.predictions:
            values |= self._compared(shown, self.pending.get("negative"), sigma)
        evaluated = tuple(_name(role) for role in sorted(step.evaluated))
        # A second-order sampler's corrector comes at the next step's sigma, before that step: the step itself counts.
        self.log.entries[:] = [entry for entry in self.log.entries if entry.step != self.index]
        for image in range(items):
            self.log.entries.append(
                TraceEntry(
                    step=self.index,
                    sigma=sigma,
                    percent=self.clock.percent(sigma),
                    image=image,
                    scale=shown.scales[image],
                    evaluated=evaluated,
                    linearised_error=shown.linearised_errors[image],
                    **{name: column[image] for name, column in values.items()},
                )
            )
        self.pending = {}

    def _compared(self, positive: Seen, negative: Seen | None, sigma: float) -> dict[str, list[float]]:
        """What guidance did to each image, where base and RL model can be compared."""
        guided = (positive.base - positive.mean) / sigma
        columns = {}
        if negative is not None and "positive" in self.pending:
            guided_negative = (negative.base - negative.mean) / sigma
            guided = guided_negative + self.guider.cfg * (guided - guided_negative)
            columns["angle"] = angle(guided, (negative.base - positive.base) / sigma)
        # The flow's velocity is -denoised / t, up to what base and RL model share.
        moved = (guided * (sigma / self.clock.time(sigma))).flatten(1).square().sum(1)
        columns |= {
            "difference": root_mean_square((positive.base - positive.rl) / sigma),
            "norm_ratio": root_mean_square(positive.x - positive.rl) / root_mean_square(positive.x - positive.base),
            "share": root_mean_square(positive.base - positive.mean) / root_mean_square(positive.x - positive.mean),
            "path_kl": moved * self.kl_weights[self.index],
        }
        return {name: column.tolist() for name, column in columns.items()}


def _name(role: int) -> str:
    return {BASE: "base", MERGED: "rl merged"}.get(role, f"rl {role}")


def _per_row(weight: Weight, rows: int) -> list[float]:
    """The scale of each row, averaged over its region."""
    if not isinstance(weight, Tensor):
        return [weight] * rows
    return weight.flatten(1).mean(1).expand(rows).tolist()
