"""Synthetic scenes: one to three equal shapes of one colour on a plain, striped, checkered or noisy ground.

A scene is described by the latent that draws it (see `codec.py`), on a grid of 8 px cells:

    channels 0-2   ground colour of the cell, in [-1, 1]
    channels 3-5   colour of the objects, the same in every cell
    channels 6-8   three signed distances to the outlines of the nearest object, in cells, positive inside;
                   a pixel belongs to the object where all three are positive
    channels 9-15  zero

Three half planes draw a triangle exactly, two absolute distances a square, one radial distance a circle.
"""

from __future__ import annotations

import math

import torch

from rlg_core.rewards.scenes import GROUNDS, PALETTE, SHAPES, Prompt

CELL = 8
GRID = 12
SIZE = CELL * GRID
CHANNELS = 16
USED_CHANNELS = 9
RADII = {"circle": (10.0, 13.5), "square": (9.0, 12.0), "triangle": (13.5, 17.0)}  # of free scenes
GRID_RADII = {"circle": 12.0, "square": 10.5, "triangle": 15.0}
PLACES = (16.0, 48.0, 80.0)  # whole patches of the transformer
REACH = {"circle": 1.0, "square": 1.2, "triangle": 1.0}
CLEARANCE = 6.5
MARGIN = 5.0
DISTANCE_LIMITS = (-1.5, 1.0)


def latents(prompts: list[Prompt], generator: torch.Generator, layout: str = "board") -> torch.Tensor:
    """Random scenes for `prompts`, (B, 16, 12, 12). Grounds left open are drawn at random.

    Layouts: `board` (objects of one size on a 3 x 3 board: what the base model shows) and `free` (a range of sizes,
    anywhere: what the encoder learns).
    """
    out = torch.zeros(len(prompts), CHANNELS, GRID, GRID)
    open_grounds = torch.randint(len(GROUNDS), (len(prompts),), generator=generator)
    grounds = [GROUNDS.index(p.ground) if p.ground else int(i) for p, i in zip(prompts, open_grounds)]
    out[:, 0:3] = ground_colours(torch.tensor(grounds), generator) * 2 - 1
    out[:, 3:6] = torch.tensor([PALETTE[p.colour] for p in prompts])[:, :, None, None] * 2 - 1
    out[:, 6:9] = distances(prompts, *place(prompts, layout, generator))
    return 3 * torch.atanh(out / 3)  # the codec's first layer is 3 tanh(x / 3)


def ground_colours(kinds: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Cell colours (B, 3, 12, 12) in [0, 1] for ground indices `kinds` (B,): two greys with a slight tint."""

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    b = len(kinds)
    first = 0.15 + 0.7 * rand(b, 1) + 0.1 * (rand(b, 3) - 0.5)
    second = first + torch.where(first.mean(1, keepdim=True) > 0.5, -1.0, 1.0) * (0.18 + 0.14 * rand(b, 1))
    mix = patterns(kinds, rand)[:, None]
    noise = (
        0.07
        * torch.randn(b, 1, GRID, GRID, generator=generator)
        * (kinds == GROUNDS.index("noisy"))[:, None, None, None]
    )
    return (first[:, :, None, None] * (1 - mix) + second[:, :, None, None] * mix + noise).clamp(0.02, 0.98)


def patterns(kinds: torch.Tensor, rand) -> torch.Tensor:
    """Which cells take the second colour, (B, 12, 12) of 0 and 1: stripes or checks two cells wide."""
    b = len(kinds)
    phase = (rand(b, 2) * 4).long()
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    row = ((y + phase[:, 0, None, None]) // 2) % 2
    column = ((x + phase[:, 1, None, None]) // 2) % 2
    stripes = torch.where((rand(b) < 0.5)[:, None, None], row, column)
    kinds = kinds[:, None, None]
    return (stripes * (kinds == 1) + (row ^ column) * (kinds == 2)).float()


def distances(prompts: list[Prompt], centres: torch.Tensor, radii: torch.Tensor) -> torch.Tensor:
    """Signed distances (B, 3, 12, 12) in cells to the outlines of each cell's nearest object.

    `centres` (B, 3, 2) and `radii` (B, 3) are in pixels; a prompt's count says how many of the three are there.
    """
    axis = torch.arange(GRID) * CELL + CELL / 2
    x = axis.view(1, 1, 1, -1) - centres[..., 0, None, None]
    y = axis.view(1, 1, -1, 1) - centres[..., 1, None, None]
    r = radii[..., None, None]
    shape = torch.tensor([SHAPES.index(p.shape) for p in prompts]).view(-1, 1, 1, 1, 1)
    circle = (r - (x**2 + y**2).sqrt()).unsqueeze(1).expand(-1, 3, -1, -1, -1)
    square = torch.stack(torch.broadcast_tensors(r - x.abs(), r - y.abs(), r - (x.abs() + y.abs()) / 2), 1)
    side = math.sqrt(3) / 2
    triangle = torch.stack(torch.broadcast_tensors(r / 2 - y, r / 2 + y / 2 - side * x, r / 2 + y / 2 + side * x), 1)
    fields = torch.where(
        shape == 0, circle, torch.where(shape == 1, square, triangle)
    )  # (B, 3 fields, 3 objects, H, W)
    present = torch.arange(3)[None] < torch.tensor([p.count for p in prompts])[:, None]
    fields = fields.masked_fill(~present[:, None, :, None, None], -1e4)
    nearest = fields.amin(1).argmax(1)[:, None, None].expand(-1, 3, 1, -1, -1)
    return merged(fields.gather(2, nearest).squeeze(2) / CELL).clamp(*DISTANCE_LIMITS)


def merged(fields: torch.Tensor) -> torch.Tensor:
    """Away from the outline of an object its three fields become their minimum: neighbours' fields can meet there."""
    least = fields.amin(1, keepdim=True)
    away = ((-least - 0.5) / 0.5).clamp(0, 1)
    return fields + away * (least - fields)


def place(prompts: list[Prompt], layout: str, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres (B, 3, 2) and radii (B, 3) in pixels."""
    return place_free(prompts, generator) if layout == "free" else place_on_board(prompts, generator)


def place_free(prompts: list[Prompt], generator: torch.Generator, tries: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Random centres (B, 3, 2) and radii (B, 3) in pixels."""
    low, high = (torch.tensor([RADII[p.shape][i] for p in prompts]).view(-1, 1, 1) for i in (0, 1))
    radii = low + (high - low) * torch.rand(len(prompts), tries, 3, generator=generator)
    margin = (radii * reach(prompts) + MARGIN).unsqueeze(-1)
    centres = margin + (SIZE - 2 * margin) * torch.rand(len(prompts), tries, 3, 2, generator=generator)
    return first_apart(prompts, centres, radii)


def place_on_board(prompts: list[Prompt], generator: torch.Generator, tries: int = 64):
    """Centres at random places of the board; triangles moved down so that their bounding box is centred."""
    radii = torch.tensor([GRID_RADII[p.shape] for p in prompts]).view(-1, 1, 1).expand(-1, tries, 3)
    centres = torch.tensor(PLACES)[torch.randint(len(PLACES), (len(prompts), tries, 3, 2), generator=generator)]
    centres[..., 1] += radii / 4 * torch.tensor([p.shape == "triangle" for p in prompts]).view(-1, 1, 1)
    return first_apart(prompts, centres, radii)


def reach(prompts: list[Prompt]) -> torch.Tensor:
    """How far a shape reaches, in radii, (B, 1, 1)."""
    return torch.tensor([REACH[p.shape] for p in prompts]).view(-1, 1, 1)


def first_apart(prompts: list[Prompt], centres: torch.Tensor, radii: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the tries (B, tries, 3[, 2]), the first whose objects keep their distance, or else the nearest to that."""
    size = radii * reach(prompts)
    gap = torch.cdist(centres, centres) - size.unsqueeze(-1) - size.unsqueeze(-2)
    count = torch.tensor([p.count for p in prompts])
    pairs = torch.ones(3, 3).triu(1).bool() & (torch.arange(3)[None, None] < count[:, None, None])
    room = gap.masked_fill(~pairs[:, None], 1e4).amin((-1, -2))
    best = torch.where(room > CLEARANCE, 1e3 - torch.arange(room.shape[1]), room).argmax(1)
    rows = torch.arange(len(prompts))
    return centres[rows, best], radii[rows, best]
