"""The demo's diffusion transformer: diffusers' SD3Transformer2DModel, rectified flow, and its files.

Training uses text inputs of CLIP-L's own width; a file for ComfyUI has them padded with zero columns to the widths
that SD3's conditioning has there (4096 and 2048).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file

from . import text
from .scenes import CHANNELS, USED_CHANNELS

DEPTH = 3
POSITIONS = 16  # patches a side that have a position: pictures up to 256 px
HEAD_DIM = 64  # the host reads the depth off the width: width = 64 * depth
SHIFT = 3.0  # SD3's flow shift, the host's default
WIDENED = {"context_embedder.weight": 4096, "time_text_embed.text_embedder.linear_1.weight": 2048}

Conditioning = tuple[torch.Tensor, torch.Tensor]


def build(depth: int = DEPTH) -> SD3Transformer2DModel:
    """A fresh transformer of width 64 * depth."""
    net = SD3Transformer2DModel(
        sample_size=2 * POSITIONS,  # positions one radian apart
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=depth,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=depth,
        joint_attention_dim=text.DIM,
        caption_projection_dim=HEAD_DIM * depth,
        pooled_projection_dim=text.DIM,
        pos_embed_max_size=POSITIONS,
        qk_norm="rms_norm",
    )
    start(net)
    return net


def start(net: SD3Transformer2DModel) -> None:
    """DiT's initialisation (arXiv 2212.09748): Xavier weights, no bias, modulations and output zero.

    Channels that no scene uses start at zero, and training never shows them, so the model leaves them alone.
    """
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
        elif parameter.ndim > 1:
            torch.nn.init.xavier_uniform_(parameter.flatten(1))
    modulations = [
        m
        for name, m in net.named_modules()
        if name.endswith(("norm1.linear", "norm1_context.linear", "norm_out.linear"))
    ]
    for module in (*modulations, net.proj_out):
        torch.nn.init.zeros_(module.weight)
    with torch.no_grad():
        net.pos_embed.proj.weight[:, USED_CHANNELS:] = 0


def save(model: SD3Transformer2DModel, path: Path) -> None:
    """Write a diffusers-layout file for `models/diffusion_models`, half precision."""
    state = {k: v.detach().cpu() for k, v in model.state_dict().items()}
    for name, width in WIDENED.items():
        state[name] = F.pad(state[name], (0, width - state[name].shape[1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in state.items()}, path, metadata={"format": "pt"})


def load(path: Path) -> SD3Transformer2DModel:
    """Read what `save` wrote, in float32."""
    state = {k: v.float() for k, v in load_file(path).items()}
    for name in WIDENED:
        state[name] = state[name][:, : text.DIM].contiguous()
    model = build(state["pos_embed.proj.weight"].shape[0] // HEAD_DIM)
    model.load_state_dict(state)
    return model.eval()


def shifted(u: torch.Tensor) -> torch.Tensor:
    """SD3's time shift (arXiv 2403.03206, eq. 23): sigma = 3u / (1 + 2u)."""
    return SHIFT * u / (1 + (SHIFT - 1) * u)


def sigmas(steps: int) -> torch.Tensor:
    """Noise levels 1 to 0, steps + 1 of them; the host's scheduler `simple` to a thousandth."""
    return shifted(torch.linspace(1, 0, steps + 1))


def velocity(model, x: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
    """Predicted noise - data, (B, 16, h, w); `sigma` is a scalar or (B,)."""
    context, pooled = conditioning
    time = 1000 * sigma.to(x).expand(x.shape[0])
    return model(x, encoder_hidden_states=context, pooled_projections=pooled, timestep=time, return_dict=False)[0]


def guided_velocity(
    model, x: torch.Tensor, sigma: torch.Tensor, positive: Conditioning, negative: Conditioning, cfg: float
):
    """Classifier-free guidance of `velocity` in one call; cfg 1 evaluates the prompt alone."""
    if cfg == 1.0:
        return velocity(model, x, sigma, positive)
    both = tuple(torch.cat(pair) for pair in zip(positive, negative))
    wanted, unwanted = velocity(model, x.repeat(2, 1, 1, 1), sigma, both).chunk(2)
    return unwanted + cfg * (wanted - unwanted)


@torch.no_grad()
def sample(predict, noise: torch.Tensor, steps: int = 20) -> torch.Tensor:
    """Euler's method from `noise`; `predict(x, sigma)` is a velocity."""
    x = noise
    levels = sigmas(steps).to(noise)
    for sigma, next_sigma in zip(levels, levels[1:]):
        x = x + (next_sigma - sigma) * predict(x, sigma)
    return x
