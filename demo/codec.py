"""The demo's VAE: weights set by hand (decoder) and trained (encoder) in the layout of the stock 16-channel TAESD.

`decoder_weights` fills a stock TAESD decoder so that it computes `decode`; `decode` is the same function written down
directly and a hundred times faster, which training uses. Layer numbers are those of the stock decoder and encoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .scenes import CHANNELS

WIDTH = 64
SHARPNESS = 6.0  # outline: the colour changes over 8 / 6 px
SCALE, SHIFT = 1.5305, 0.0609  # the latent format of SD3
GROUND, OBJECT, INSIDE, OUTSIDE = slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 12)
DECODER_BLOCKS = (3, 4, 5, 8, 9, 10, 13, 14, 15, 18)
DECODER_UPSAMPLED = (7, 12, 17)
ENCODER_BLOCKS = (1, 3, 4, 5, 7, 8, 9, 11, 12, 13)
ENCODER_TRAINED = (9, 10, 11, 12, 13, 14)
TENT = torch.tensor([0.25, 0.5, 0.25])  # after a nearest-neighbour upsampling by two it makes a bilinear one

Weights = dict[str, torch.Tensor]


def decode(latent: torch.Tensor) -> torch.Tensor:
    """Latents (B, 16, h, w) in the diffusion model's space to pictures (B, 3, 8h, 8w) in [0, 1]."""
    z = 3 * torch.tanh(latent / 3)
    ground, colour = (F.interpolate((0.5 + 0.5 * z[:, s]).relu(), scale_factor=8) for s in (GROUND, OBJECT))
    distance = z[:, 6:9]
    for _ in range(3):
        distance = tent(F.interpolate(distance, scale_factor=2))
    outside = (0.5 - SHARPNESS * distance).clamp(0, 1).sum(1, keepdim=True).clamp(max=1)
    return ((ground - 1 + outside).relu() + (colour - outside).relu()).clamp(0, 1)


def tent(x: torch.Tensor) -> torch.Tensor:
    """Smooth each channel with the 3 x 3 tent, zero outside the picture."""
    kernel = torch.outer(TENT, TENT).to(x).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


def conv(n_in: int, n_out: int, bias: bool = True) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.zeros(n_out, n_in, 3, 3), torch.zeros(n_out) if bias else None


def put(weights: Weights, name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    weights[name + ".weight"] = weight
    if bias is not None:
        weights[name + ".bias"] = bias


def put_idle_block(weights: Weights, name: str) -> None:
    """A residual block that hands its (non-negative) input on."""
    for i in (0, 2, 4):
        put(weights, f"{name}.conv.{i}", *conv(WIDTH, WIDTH))


def decoder_weights() -> Weights:
    """State dict of a stock TAESD decoder that computes `decode`."""
    weights: Weights = {}
    for layer in DECODER_BLOCKS:
        put_idle_block(weights, str(layer))
    put(weights, "1", *split_latent())
    for layer in DECODER_UPSAMPLED:
        put(weights, str(layer), *upsampling())
    put_composition(weights, "18")
    weight, bias = conv(WIDTH, 3)
    for c in range(3):
        weight[c, c, 1, 1] = weight[c, 3 + c, 1, 1] = 1.0
    put(weights, "19", weight, bias)
    return weights


def split_latent() -> tuple[torch.Tensor, torch.Tensor]:
    """Colours to [0, 1]; each distance to its positive and its negative part (a ReLU follows)."""
    weight, bias = conv(CHANNELS, WIDTH)
    for c in range(6):
        weight[c, c, 1, 1] = bias[c] = 0.5
    for c in range(3):
        weight[6 + c, 6 + c, 1, 1], weight[9 + c, 6 + c, 1, 1] = 1.0, -1.0
    return weight, bias


def upsampling() -> tuple[torch.Tensor, None]:
    """Colours stay blocks (crisp patterns), distances become bilinear (crisp outlines)."""
    weight, _ = conv(WIDTH, WIDTH, bias=False)
    for c in range(6):
        weight[c, c, 1, 1] = 1.0
    for c in range(6, 12):
        weight[c, c] = torch.outer(TENT, TENT)
    return weight, None


def put_composition(weights: Weights, name: str) -> None:
    """The last block: ground where outside, object colour where inside, by ReLUs alone."""
    (w0, b0), (w2, b2), (w4, b4) = (conv(WIDTH, WIDTH) for _ in range(3))
    for c in range(3):
        for row, offset in ((c, 0.5), (3 + c, -0.5)):
            w0[row, 6 + c, 1, 1], w0[row, 9 + c, 1, 1], b0[row] = -SHARPNESS, SHARPNESS, offset
        for row in (0, 1):
            w2[row, c, 1, 1], w2[row, 3 + c, 1, 1] = 1.0, -1.0
    b2[1] = -1.0
    for c in range(3):
        w4[c, 0, 1, 1], w4[c, 1, 1, 1], b4[c] = 1.0, -1.0, -1.0
        w4[3 + c, 0, 1, 1], w4[3 + c, 1, 1, 1] = -1.0, 1.0
    for i, pair in zip((0, 2, 4), ((w0, b0), (w2, b2), (w4, b4))):
        put(weights, f"{name}.conv.{i}", *pair)


def fold(n_in: int) -> tuple[torch.Tensor, None]:
    """A stride-2 convolution that stacks each 2 x 2 pixels into channels: in channel c to 4c .. 4c + 3."""
    weight, _ = conv(WIDTH, WIDTH, bias=False)
    for c in range(n_in):
        for k in range(4):
            weight[4 * c + k, c, 1 + k // 2, 1 + k % 2] = 1.0
    return weight, None


def encoder_start(generator: torch.Generator) -> Weights:
    """State dict of a stock TAESD encoder: pixels folded to 1/4 size by hand, the layers after that to be trained."""
    weights: Weights = {}
    weight, bias = conv(3, WIDTH)
    weight[range(3), range(3), 1, 1] = 1.0
    put(weights, "0", weight, bias)
    put(weights, "2", *fold(3))
    put(weights, "6", *fold(12))
    for layer in ENCODER_BLOCKS:
        put_idle_block(weights, str(layer))
    put(weights, "10", *conv(WIDTH, WIDTH, bias=False))
    put(weights, "14", *conv(WIDTH, CHANNELS))
    for name, tensor in weights.items():
        if int(name.split(".")[0]) in ENCODER_TRAINED and tensor.ndim == 4:
            last_of_block = ".conv.4." in name
            std = (2 / (9 * WIDTH)) ** 0.5 * (0.3 if last_of_block else 1.0)
            tensor.normal_(std=std, generator=generator)
    return weights


def folded(picture: torch.Tensor) -> torch.Tensor:
    """What the encoder's hand-set layers hand on: (B, 3, H, W) in [0, 1] to (B, 64, H / 4, W / 4)."""
    x = F.pixel_unshuffle(F.pixel_unshuffle(picture, 2), 2)
    return F.pad(x, (0, 0, 0, 0, 0, WIDTH - x.shape[1]))


def encode_folded(weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """The encoder's trained layers, from (B, 64, H / 4, W / 4) to latents (B, 16, H / 8, W / 8).

    The layers before them are idle or fold.
    """
    x = block(weights, "9", x)
    x = F.conv2d(x, weights["10.weight"], stride=2, padding=1)
    for layer in (11, 12, 13):
        x = block(weights, str(layer), x)
    return F.conv2d(x, weights["14.weight"], weights["14.bias"], padding=1)


def block(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    """TAESD's residual block."""
    y = x
    for i in (0, 2, 4):
        y = F.conv2d(
            y if i == 0 else y.relu(), weights[f"{name}.conv.{i}.weight"], weights[f"{name}.conv.{i}.bias"], padding=1
        )
    return (y + x).relu()


def vae_file(encoder: Weights) -> Weights:
    """State dict of the file for `models/vae`; scale and shift undo SD3's latent format."""
    file = {f"taesd_encoder.{k}": v for k, v in encoder.items()}
    file |= {f"taesd_decoder.{k}": v for k, v in decoder_weights().items()}
    file = {k: compact(v.detach()).contiguous() for k, v in file.items()}
    return file | {"vae_scale": torch.tensor(SCALE), "vae_shift": torch.tensor(SHIFT)}


def compact(weight: torch.Tensor) -> torch.Tensor:
    """Eight bits where they hold every value exactly, as they do for what is set by hand; else half precision."""
    eight = weight.to(torch.float8_e4m3fn)
    return eight if torch.equal(eight.float(), weight.float()) else weight.half()
