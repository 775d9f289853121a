"""Training of the base model (rectified flow) and of the codec's encoder on synthetic scenes."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from rlg_core.rewards.scenes import GROUNDS, Prompt, all_prompts

from . import codec, model, scenes, text

UNCONDITIONAL = 0.1
GROUND_NAMED = 0.3
CHANNEL_WEIGHTS = torch.tensor([1.0] * 6 + [4.0] * 3 + [0.0] * 7).view(1, -1, 1, 1)  # outlines matter most


class Captions:
    """Every caption encoded once. Row 0 is the empty prompt, `open_rows` leave the ground open."""

    def __init__(self) -> None:
        self.prompts = all_prompts((None, *GROUNDS))
        self.open_rows = 54
        self.context, self.pooled = text.encode(["", *self.prompts])

    def draw(self, batch: int, generator: torch.Generator) -> tuple[list[Prompt], torch.Tensor]:
        """Random prompts and the rows of their captions (some dropped to the empty prompt)."""
        named = torch.rand(batch, generator=generator) < GROUND_NAMED
        low, high = torch.where(named, self.open_rows, 0), torch.where(named, len(self.prompts), self.open_rows)
        pick = (low + torch.rand(batch, generator=generator) * (high - low)).long()
        dropped = torch.rand(batch, generator=generator) < UNCONDITIONAL
        return [self.prompts[i] for i in pick], torch.where(dropped, 0, pick + 1)

    def rows(self, rows: torch.Tensor) -> model.Conditioning:
        return self.context[rows], self.pooled[rows]

    def of(self, prompts: list[Prompt]) -> model.Conditioning:
        """Conditioning of given prompts, and of as many empty ones where a prompt is None."""
        return self.rows(torch.tensor([0 if p is None else 1 + self.prompts.index(p) for p in prompts]))


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then a cosine to 2 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


@dataclass(frozen=True)
class Settings:
    """What the base model is trained with; recorded in its log."""

    steps: int = 11000
    batch: int = 64
    peak: float = 2e-3
    seed: int = 0


def train_base(net, settings: Settings) -> Iterator[tuple[int, float, object]]:
    """Rectified flow (arXiv 2209.03003): regress noise - data. Yields (step, loss, averaged model) every 100 steps."""
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    captions, average, running = Captions(), copy.deepcopy(net), None
    optimiser = torch.optim.AdamW(net.parameters(), lr=settings.peak, weight_decay=0.01, betas=(0.9, 0.95), fused=True)
    for step in range(settings.steps):
        optimiser.param_groups[0]["lr"] = learning_rate(step, settings.steps, settings.peak)
        # On a CPU the plain attention trains faster than the flash one at these lengths.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            loss = flow_loss(net, captions, settings.batch, generator)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        follow(average, net, min(0.998, (step + 1) / (step + 10)))
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 100 == 0 or step + 1 == settings.steps:
            yield step + 1, running, average


def flow_loss(net, captions: Captions, batch: int, generator: torch.Generator) -> torch.Tensor:
    """Squared error of the velocity, weighted by channel, at logit-normal times shifted as in sampling."""
    prompts, rows = captions.draw(batch, generator)
    data = scenes.latents(prompts, generator)
    noise = torch.randn(data.shape, generator=generator)
    noise[:, scenes.USED_CHANNELS :] = 0
    sigma = model.shifted(torch.sigmoid(1.2 * torch.randn(batch, generator=generator)))
    level = sigma[:, None, None, None]
    prediction = model.velocity(net, (1 - level) * data + level * noise, sigma, captions.rows(rows))
    return (CHANNEL_WEIGHTS * (prediction - noise + data) ** 2).mean()


@torch.no_grad()
def follow(average, net, decay: float) -> None:
    """Exponential moving average of the weights."""
    for slow, fast in zip(average.parameters(), net.parameters()):
        slow.lerp_(fast, 1 - decay)


def train_encoder(steps: int, batch: int, peak: float, seed: int) -> tuple[codec.Weights, list[dict]]:
    """Regress latents from the pictures they decode to. Returns the encoder's weights and the log."""
    generator = torch.Generator().manual_seed(seed)
    weights = codec.encoder_start(generator)
    trained = [w.requires_grad_() for k, w in weights.items() if int(k.split(".")[0]) in codec.ENCODER_TRAINED]
    optimiser = torch.optim.AdamW(trained, lr=peak, weight_decay=1e-4)
    log, start, prompts = [], time.time(), all_prompts()
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = learning_rate(step, steps, peak)
        picks = torch.randint(len(prompts), (batch,), generator=generator)
        target = scenes.latents([prompts[i] for i in picks], generator, layout=("board", "free")[step % 2])
        error = codec.encode_folded(weights, codec.folded(codec.decode(target))) - target
        loss = (error.square() * importance(target)).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        if (step + 1) % 50 == 0:
            log.append({"step": step + 1, "loss": round(loss.item(), 5), "seconds": round(time.time() - start)})
            print(log[-1], flush=True)
    return weights, log


def importance(target: torch.Tensor) -> torch.Tensor:
    """Weights of the encoder's loss: distances count most at outlines, the ground not at all under objects."""
    weight = torch.ones_like(target)
    weight[:, codec.INSIDE] = 1 + 8 * (target[:, codec.INSIDE].abs() < 0.8).float()
    weight[:, codec.GROUND] = 0.1 + 3 * (target[:, codec.INSIDE].amin(1, keepdim=True) < 0.3).float()
    return weight
