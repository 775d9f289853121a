"""Judges scales by sampling with them: the same prompts and noise for every scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....rlg_core.errors import LARGEST_SEED, RunError, require_number, require_one_of, require_whole
from ....rlg_core.pictures import diversity, picture_distance
from ....rlg_core.schedule import Stages
from ....rlg_core.search import Trial
from ..compat import empty_latent_ratios
from ..models.relation import relate
from ..run.attach import with_expert
from ..run.record import Expert
from .rewards import Reward

Conditioning = list
SAMPLERS = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS


@dataclass(frozen=True)
class Sampling:
    """How pictures are made: the settings of a KSampler, and the number of pictures per prompt.

    Raises `RLGError` for numbers that make no pictures, and for names that the host does not know.
    """

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    images: int

    def __post_init__(self) -> None:
        require_whole("seed", self.seed, 0, LARGEST_SEED)
        require_whole("steps", self.steps, 1)
        require_number("cfg", self.cfg)
        require_whole("images_per_scale", self.images, 1)
        require_one_of("sampler_name", self.sampler_name, SAMPLERS)
        require_one_of("scheduler", self.scheduler, SCHEDULERS)


@dataclass(frozen=True)
class Case:
    """One prompt to judge scales on."""

    positive: Conditioning
    negative: Conditioning
    prompt: str


class Judge:
    """Makes the pictures of each scale and scores them. The progress bar expects `evaluations` scales.

    Raises `RunError` if the two models are identical.
    """

    def __init__(
        self,
        model: ModelPatcher,
        rl_model: ModelPatcher,
        vae: Any,
        latent: dict,
        cases: Sequence[Case],
        sampling: Sampling,
        reward: Reward,
        evaluations: int,
    ):
        self.model, self.relation, self.vae = model, relate(model, rl_model), vae
        if self.relation is None:
            raise RunError("model and rl_model are identical (a bypassed LoRA loader?): no scale changes anything.")
        self.latent, self.cases, self.sampling, self.reward = latent, cases, sampling, reward
        self.progress = comfy.utils.ProgressBar(evaluations * len(cases) * sampling.steps)
        self.base: Tensor | None = None

    def __call__(self, stages: Stages) -> Trial:
        pictures = self._pictures(stages)
        if not bool(torch.isfinite(pictures).all()):
            raise RunError(f"At scale {stages.scales[0]:g} the pictures have NaN or infinite values: lower scale_max.")
        prompts = [case.prompt for case in self.cases for _ in range(len(pictures) // len(self.cases))]
        if self.base is None:
            self.base = pictures if set(stages.scales) == {0.0} else self._pictures(Stages.constant(0.0))
        shift = float(picture_distance(pictures, self.base).mean())
        spread = [diversity(of_case) for of_case in pictures.chunk(len(self.cases))]
        return Trial(stages, tuple(self.reward.scores(pictures, prompts)), shift, sum(spread) / len(spread))

    def _pictures(self, stages: Stages) -> Tensor:
        """The pictures [cases * images, h, w, 3] of the guided model, case by case."""
        guided = with_expert(self.model, Expert(self.relation, stages), 0.0)
        return torch.cat([self._decoded(self._sampled(guided, case)) for case in self.cases])

    def _sampled(self, guided: ModelPatcher, case: Case) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        settings = self.sampling
        ratios = empty_latent_ratios(self.latent)
        latent = comfy.sample.fix_empty_latent_channels(guided, self.latent["samples"], **ratios)
        latent = comfy.utils.repeat_to_batch_size(latent, settings.images)
        return comfy.sample.sample(
            guided,
            comfy.sample.prepare_noise(latent, settings.seed),
            settings.steps,
            settings.cfg,
            settings.sampler_name,
            settings.scheduler,
            case.positive,
            case.negative,
            latent,
            noise_mask=self.latent.get("noise_mask"),
            callback=lambda *_: self.progress.update(1),
            disable_pbar=True,
            seed=settings.seed,
        )

    def _decoded(self, latent: Tensor) -> Tensor:
        pictures = self.vae.decode(latent)
        return pictures.flatten(0, -4)[..., :3].cpu()
