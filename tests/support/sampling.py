"""Settings of a sampling run, for the host and for the same run outside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch


def conditioning(seed: int, width: int = 96, pooled: int | None = 64, tokens: int = 7) -> list:
    """One random prompt of the host's; `pooled` None for models without pooled text."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens, width, generator=generator)
    extra = {} if pooled is None else {"pooled_output": torch.randn(1, pooled, generator=generator)}
    return [[text, extra]]


@dataclass
class Sampling:
    """Settings of one sampling run, and what it needs to be repeated outside the host.

    `sampler` is a name, or a sampler that a node of the host has made.
    """

    steps: int = 8
    cfg: float = 4.5
    sampler: Any = "euler"
    scheduler: str = "simple"
    seed: int = 3
    shape: tuple[int, ...] = (1, 16, 8, 8)
    positive: list = field(default_factory=lambda: conditioning(11))
    negative: list = field(default_factory=lambda: conditioning(12))
    latent: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    def noise(self) -> torch.Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(self.seed))

    def sigmas(self, host: SimpleNamespace, model: Any) -> torch.Tensor:
        sampling = model.get_model_object("model_sampling")
        return host.comfy.samplers.calculate_sigmas(sampling, self.scheduler, self.steps).cpu()

    def run(self, host: SimpleNamespace, model: Any, callback: Callable | None = None) -> torch.Tensor:
        """The final latent, as the host's samplers return it."""
        guider = host.comfy.samplers.CFGGuider(model)
        guider.set_conds(self.positive, self.negative)
        guider.set_cfg(self.cfg)
        return self.run_with(host, guider, callback)

    def run_with(self, host: SimpleNamespace, guider: Any, callback: Callable | None = None) -> torch.Tensor:
        """The same with a guider of one's own; on the processor, as the host's nodes hand a latent on."""
        own = host.comfy.samplers.sampler_object(self.sampler) if isinstance(self.sampler, str) else self.sampler
        return guider.sample(
            self.noise(),
            torch.zeros(self.shape) if self.latent is None else self.latent,
            own,
            self.sigmas(host, guider.model_patcher),
            denoise_mask=self.mask,
            callback=callback,
            seed=self.seed,
            disable_pbar=True,
        ).cpu()


def unet_sampling(**settings: Any) -> Sampling:
    """Settings for the SD1.5 layout."""
    defaults = {
        "shape": (1, 4, 8, 8),
        "steps": 4,
        "positive": conditioning(11, 768, None),
        "negative": conditioning(12, 768, None),
    }
    return Sampling(**defaults | settings)


def wan_sampling(**settings: Any) -> Sampling:
    """Settings for Wan's layout: one frame."""
    defaults = {
        "shape": (1, 16, 1, 8, 8),
        "steps": 2,
        "positive": conditioning(11, 4096, None),
        "negative": conditioning(12, 4096, None),
    }
    return Sampling(**defaults | settings)


@contextmanager
def counted_calls(model: Any) -> Iterator[list[int]]:
    """The rows of every call of `model`'s network while the context lasts."""
    rows: list[int] = []
    hook = model.model.diffusion_model.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[0]))
    try:
        yield rows
    finally:
        hook.remove()
