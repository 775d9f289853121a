"""The loop of the paper's code (arXiv 2508.21016): diffusers and PEFT, the adapter switched on and off at each step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .pair import Job, Pair


def sd3_velocity(model: nn.Module, x: Tensor, sigma: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
    """SD3's prediction for latents x [rows, 16, height, width]."""
    return model(
        hidden_states=x,
        timestep=(sigma * 1000).expand(x.shape[0]),
        encoder_hidden_states=text,
        pooled_projections=pooled,
        return_dict=False,
    )[0]


def flux_velocity(model: nn.Module, x: Tensor, sigma: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
    """FLUX's prediction for latents x [rows, 16, height, width], packed in patches of two by two, at guidance 3.5."""
    rows, channels, height, width = x.shape
    grid = torch.stack(torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij"), -1)
    image_ids = nn.functional.pad(grid.reshape(-1, 2), (1, 0)).to(x)
    packed = nn.functional.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)
    velocity = model(
        hidden_states=packed,
        timestep=sigma.expand(rows).to(x),
        guidance=torch.full((rows,), 3.5).to(x),
        encoder_hidden_states=text,
        pooled_projections=pooled,
        img_ids=image_ids,
        txt_ids=torch.zeros(text.shape[1], 3).to(x),
        return_dict=False,
    )[0]
    return nn.functional.pixel_shuffle(velocity.transpose(1, 2).reshape(rows, channels * 4, height // 2, width // 2), 2)


VELOCITIES = {"sd3": sd3_velocity, "flux": flux_velocity}


def prompts(pair: Pair, cfg: float) -> tuple[Tensor, Tensor]:
    """Text [rows, tokens, width] and pooled text of both prompts, or of the positive one alone without CFG."""
    wanted = [pair.positive[0], pair.negative[0]] if cfg != 1 else [pair.positive[0]]
    rows = pair.geometry.latent[0]
    text = torch.cat([text.expand(rows, -1, -1) for text, _ in wanted])
    pooled = torch.cat([extra["pooled_output"].expand(rows, -1) for _, extra in wanted])
    return text.to(pair.device, pair.geometry.dtype), pooled.to(pair.device, pair.geometry.dtype)


def sample(pair: Pair, model: nn.Module, job: Job, on_step: Callable[[], None]) -> Tensor:
    """Euler steps on velocities: each model CFG'd at the same scale, then `base + w (rl - base)`."""
    cfg = pair.geometry.cfg
    velocity_of = VELOCITIES[pair.geometry.family]
    text, pooled = prompts(pair, cfg)
    sigmas = pair.sigmas(job.steps).to(pair.device)
    x = pair.noise(job.seed).to(sigmas) * sigmas[0]

    def velocity(sigma: Tensor) -> Tensor:
        rows = x.to(pair.geometry.dtype).repeat(text.shape[0] // x.shape[0], 1, 1, 1)
        both = velocity_of(model, rows, sigma, text, pooled).float()
        if cfg == 1:
            return both
        conditional, unconditional = both.chunk(2)
        return unconditional + cfg * (conditional - unconditional)

    for sigma, following in zip(sigmas[:-1], sigmas[1:]):
        rl = velocity(sigma)
        with model.disable_adapter():
            base = velocity(sigma)
        on_step()
        x = x + (following - sigma) * (base + job.scale * (rl - base))
    return x.cpu()
