"""The demo's text encoder: a CLIP-L file of half a megabyte that stock `CLIPLoader` (type `sd3`) loads.

Every token has a fixed random vector and the first eleven layers are zero, so the context is the bare token vectors.
The last layer attends evenly to all tokens so far, so the pooled vector (read at the end token) is

    LN(e_end + GAIN * mean_j LN(e_j))

The file stays small because tensors are views: the table is `noise[i + j]` for token i and dimension j, and zeros are
one number expanded. `torch.save` keeps views, safetensors cannot. The position table has 12 rows, which the host
takes as the length of a prompt; longer prompts are encoded in pieces.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from rlg_core.rewards.scenes import Prompt

VOCABULARY, DIM, HIDDEN, LAYERS, LENGTH = 49408, 768, 3072, 12, 12
START, END = 49406, 49407
GAIN = 4.0
TOKENS = {  # the CLIP tokenizer's ids of the words that captions use
    "one": (637,),
    "two": (1237,),
    "three": (2097,),
    "red": (736,),
    "orange": (4287,),
    "yellow": (4481,),
    "green": (1901,),
    "blue": (1746,),
    "purple": (5496,),
    "circle": (7117,),
    "circles": (19411,),
    "square": (3999,),
    "squares": (26972,),
    "triangle": (14615,),
    "triangles": (924, 18627),
    "on": (525,),
    "ground": (2461,),
    "plain": (10709,),
    "striped": (22192,),
    "checkered": (1113, 26690),
    "noisy": (33495,),
}


def noise() -> torch.Tensor:
    """The numbers behind the token table, half precision."""
    return torch.randn(VOCABULARY + DIM - 1, generator=torch.Generator().manual_seed(0)).half()


def token_ids(caption: str) -> list[int]:
    """Start, words, end, padded with the end token to LENGTH; "" is the empty prompt."""
    words = [i for word in caption.split() for i in TOKENS[word]]
    return ([START, *words, END] + [END] * LENGTH)[:LENGTH]


def encode(captions: list[str | Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
    """Context (B, 12, 768) and pooled (B, 768), as the host computes them from the file."""
    ids = torch.tensor([token_ids(str(c)) for c in captions])
    table = noise().float().unfold(0, DIM, 1)
    context = table[ids]
    end = (ids == END).int().argmax(1)
    before = torch.arange(LENGTH)[None] <= end[:, None]
    mean = (F.layer_norm(context, (DIM,)) * before[..., None]).sum(1) / (end + 1)[:, None]
    return context, F.layer_norm(context[torch.arange(len(ids)), end] + GAIN * mean, (DIM,))


def layer(index: int, zero: torch.Tensor, one: torch.Tensor, flip: torch.Tensor) -> dict[str, torch.Tensor]:
    """One transformer layer: idle, but the last averages. `flip` (reversed order) twice is the identity."""
    last = index == LAYERS - 1
    square, bias = zero.expand(DIM, DIM), zero.expand(DIM)
    out = {f"self_attn.{n}_proj.weight": square for n in "qkv"} | {"self_attn.out_proj.weight": square}
    out |= {f"self_attn.{n}_proj.bias": bias for n in ("q", "k", "v", "out")}
    if last:
        out |= {"self_attn.v_proj.weight": flip, "self_attn.out_proj.weight": (flip_buffer() * GAIN).unfold(0, DIM, 1)}
    for n in (1, 2):
        out |= {f"layer_norm{n}.weight": one.expand(DIM), f"layer_norm{n}.bias": bias}
    out |= {"mlp.fc1.weight": zero.expand(HIDDEN, DIM), "mlp.fc1.bias": zero.expand(HIDDEN)}
    out |= {"mlp.fc2.weight": zero.expand(DIM, HIDDEN), "mlp.fc2.bias": bias}
    return {f"text_model.encoder.layers.{index}.{k}": v for k, v in out.items()}


def flip_buffer() -> torch.Tensor:
    """`flip_buffer().unfold(0, DIM, 1)` is the matrix that reverses a vector."""
    return F.one_hot(torch.tensor(DIM - 1), 2 * DIM - 1).half()


def clip_file() -> dict[str, torch.Tensor]:
    """State dict of a CLIP-L text model with projection, as views of a few small tensors."""
    zero, one, flip = torch.zeros(1).half(), torch.ones(1).half(), flip_buffer().unfold(0, DIM, 1)
    file = {
        "text_model.embeddings.token_embedding.weight": noise().unfold(0, DIM, 1),
        "text_model.embeddings.position_embedding.weight": zero.expand(LENGTH, DIM),
        "text_model.final_layer_norm.weight": one.expand(DIM),
        "text_model.final_layer_norm.bias": zero.expand(DIM),
        "text_projection.weight": flip,
    }
    for i in range(LAYERS):
        file |= layer(i, zero, one, flip)
    return file


def write(path: Path) -> None:
    """Write the encoder for `models/text_encoders`."""
    torch.save(clip_file(), path)
