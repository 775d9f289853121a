"""The RL model's own preference for given pictures, with no reward model (Diffusion-DPO, arXiv 2311.12908, sec. 4)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import CONST
from torch import Tensor

from ....rlg_core.errors import RLGError, RunError
from ....rlg_core.schedule import Schedule
from ..compat import require_one_tensor
from ..models.relation import relate
from ..run.attach import with_expert
from ..run.record import Expert, record_of

log = logging.getLogger(__name__)
ERRORS = ("velocity", "noise")

LAST_PERCENT = 0.999
"""The last percent that is drawn: at percent 1 there is no noise left to predict."""


@dataclass(frozen=True)
class Draws:
    """Noise levels, as increasing percents of the schedule, and one noise for each."""

    percents: Tensor
    noise: Tensor

    @classmethod
    def of(cls, count: int, seed: int, item: tuple[int, ...]) -> Draws:
        """One percent at random in each of `count` equal parts of the schedule, and `noise` [count, *item].

        Both are the same for every picture.
        """
        generator = torch.Generator().manual_seed(seed)
        within = torch.rand(count, generator=generator, dtype=torch.float64)
        percents = (torch.arange(count) + within) / count * LAST_PERCENT
        return cls(percents, torch.randn(count, *item, generator=generator))


class ErrorMeter(comfy.samplers.Sampler):
    """A sampler that samples nothing: it records how far off a model's predictions are at each draw.

    `errors` [draws, items] are the means over elements of |v - v_true|^2. v is the velocity (x - denoised) / sigma,
    which for models that predict noise is the noise.
    """

    def __init__(self, noise: Tensor, progress: comfy.utils.ProgressBar):
        self.draws, self.progress = noise, progress
        self.errors: list[Tensor] = []

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        clean, sampling = latent_image, model_wrap.inner_model.model_sampling
        for sigma, draw in zip(sigmas[:-1], self.draws.to(clean)):
            comfy.model_management.throw_exception_if_processing_interrupted()
            x = sampling.noise_scaling(sigma, draw.expand_as(clean), clean, False)
            denoised = model_wrap(x, sigma.expand(len(x)), **extra_args)
            difference = (denoised - clean) / sigma  # v - v_true up to sign: both have the same x
            self.errors.append(difference.float().square().flatten(1).mean(1).cpu())
            self.progress.update(1)
        return clean


def implicit_reward(
    model: ModelPatcher,
    rl_model: ModelPatcher,
    positive: list,
    latent: Tensor,
    draws: int,
    seed: int,
    error: str = "velocity",
) -> Tensor:
    """`|v - v_base|^2 - |v - v_rl|^2` [draws, pictures]: above 0 if the RL model predicts the picture better.

    With the `error` of the noise, that of flow models counts `(1 - t)^2`. Noise levels and noise are the same for all
    pictures and both models. Raises `RunError` if `model` has RLG on it, `RLGError` for an unknown `error`.
    """
    if error not in ERRORS:
        raise RLGError(f"error is {error!r}: expected one of {', '.join(ERRORS)}.")
    if record_of(model) is not None:
        raise RunError(
            "RLG Implicit Reward compares the plain base with the RL model. Wire `model` from before the RLG nodes."
        )
    require_one_tensor(latent, "RLG Implicit Reward scores latents of one tensor only.")
    relation = relate(model, rl_model)
    if relation is None:
        log.warning("RLG: model and rl_model are identical (a bypassed LoRA loader?): all scores are 0.")
        return torch.zeros(draws, len(latent))
    drawn, progress = Draws.of(draws, seed, tuple(latent.shape[1:])), comfy.utils.ProgressBar(2 * draws)
    errors = []
    for scale in (0.0, 1.0):
        meter = ErrorMeter(drawn.noise, progress)
        _run(
            meter, with_expert(model, Expert(relation, Schedule(scale_from=scale)), 0.0), positive, latent, drawn, seed
        )
        errors.append(torch.stack(meter.errors))
    return (errors[0] - errors[1]) * (_noise_weights(model, drawn)[:, None] if error == "noise" else 1.0)


def _noise_weights(model: ModelPatcher, drawn: Draws) -> Tensor:
    """What turns squared errors of the velocity into those of the noise, by draw: `eps - eps' = (1 - t) (v - v')`."""
    levels = model.get_model_object("model_sampling")
    if not isinstance(levels, CONST):
        return torch.ones(len(drawn.percents))
    return torch.tensor([(1.0 - float(levels.percent_to_sigma(float(percent)))) ** 2 for percent in drawn.percents])


def _run(meter: ErrorMeter, model: ModelPatcher, positive: list, latent: Tensor, drawn: Draws, seed: int) -> None:
    """Runs `meter` as a sampler, so that the host loads models and cleans up. CFG 1: the positive prompt alone."""
    levels = model.get_model_object("model_sampling")
    sigmas = torch.tensor([float(levels.percent_to_sigma(float(percent))) for percent in drawn.percents] + [0.0])
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, positive)
    guider.set_cfg(1.0)
    guider.sample(torch.zeros_like(latent), latent, meter, sigmas, disable_pbar=True, seed=seed)
