"""Extraction from two full-size files, neither of which is loaded: memory, time, kept energy and the latent's error."""

from __future__ import annotations

import json
import math
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from support.guiding import guide
from support.sampling import Sampling, conditioning

from . import host
from .demo_pair import Demo, errors, percent
from .geometry import DEMO_BASE, sd3
from .host import say
from .measure import now, relative_error
from .memory import device_bytes, in_child, reset_peak, trim
from .report import machine, table

TITLE = "Extraction from files"
TRUE_RANK, SIZE, NOISE = 32, 0.01, 0.002
RANK = 64
RANKS = (16, 32, 64)
SCALE, SIDE, TOKENS = 2.0, 16, 16
HOW = """Two files of {size:.1f} GB in bfloat16 with the geometry of SD3.5-M ({weights:.2f} billion numbers, diffusers'
layout): a random base, and the base plus a difference of rank {rank} and {low:g} % of each weight's norm plus noise of
{noise:g} % (and the rounding of bfloat16). Extracted by the call that RLGExtractFromFiles makes, at rank {taken}, in a
process of its own. {machine}"""
COMPARED = """The latent's error against two checkpoints, over the rank: RLG at w = {scale:g}, CFG 1, one step from
noise, {side} x {side} latent. *Relative to the effect*: to the distance between guidance and the base alone."""

PROMPTS, CFG, DEMO_STEPS, DEMO_RANKS = 12, 2.0, 20, (2, 4, 8, 16, 32, 64)
ON_DEMO = """The demo's full checkpoint, which RL training has changed in all weights: RLG at w = {scale:g}, CFG
{cfg:g}, {steps} Euler steps, {count} pictures. Error against two checkpoints: median, 90th percentile, worst; and the
median relative to the distance between guidance and the base alone."""


def run() -> str:
    folder = Path(tempfile.mkdtemp(prefix="rlg-extraction-"))
    try:
        return f"{measured(folder)}\n\n{of_demo()}"
    finally:
        shutil.rmtree(folder)


def measured(folder: Path) -> str:
    shapes = {name: tuple(value.shape) for name, value in blank().items()}
    base, rl = folder / "base.safetensors", folder / "rl.safetensors"
    say("writing two files")
    write(shapes, {base: lambda weight, _: weight, rl: tuned})
    say("extracting")
    found = in_child(extracted, base, rl, folder)
    say("sampling")
    return rendered(shapes, base.stat().st_size, found, in_child(compared, base, rl, Path(found["path"])))


def rendered(
    shapes: Mapping[str, tuple[int, ...]], size: int, found: dict[str, Any], off: dict[int, tuple[str, str]]
) -> str:
    how = HOW.format(
        size=size / 1e9,
        weights=sum(map(math.prod, shapes.values())) / 1e9,
        rank=TRUE_RANK,
        low=100 * SIZE,
        noise=100 * NOISE,
        taken=RANK,
        machine=machine(),
    )
    rows = [(str(rank), f"{100 * found['kept'][rank]:.2f} %", *off[rank]) for rank in RANKS]
    against = table(("rank", "kept energy", "latent's error", "relative to the effect"), rows)
    second = COMPARED.format(scale=SCALE, side=SIDE)
    return f"{how}\n\n{table(('measured', ''), found['rows'])}\n\n{second}\n\n{against}"


def of_demo() -> str:
    """The demo's full checkpoint, over the rank: a difference that RL training has made, all of the weights."""
    demo, started = Demo(PROMPTS), host.start()
    pair, extraction = (started.module(f"nodes.host.models.{name}") for name in ("checkpoint_pair", "extraction"))
    (name,) = (expert.name for expert in demo.experts.values() if expert.is_checkpoint)
    exact = demo.latents(demo.guided({name: SCALE}), CFG, DEMO_STEPS, [0])
    alone = demo.latents(demo.base, CFG, DEMO_STEPS, [0])
    rows = []
    for rank in DEMO_RANKS:
        with torch.inference_mode():
            found, _ = pair.extract_from_files(DEMO_BASE, demo.experts[name].path, rank, 1.0)
        rl_model = extraction.with_terms(demo.base, found.terms)
        latents = demo.latents(demo.guided({name: SCALE}, rl_model=rl_model), CFG, DEMO_STEPS, [0])
        effect = (latents - exact).flatten(2).norm(dim=2).flatten() / (exact - alone).flatten(2).norm(dim=2).flatten()
        kept = f"{100 * found.kept_in_all():.2f} %"
        rows.append((str(rank), kept, percent(errors(latents, exact)), f"{100 * float(effect.median()):.1f} %"))
    how = ON_DEMO.format(scale=SCALE, cfg=CFG, steps=DEMO_STEPS, count=PROMPTS)
    return f"{how}\n\n{table(('rank', 'kept energy', 'error of the latent', 'relative to the effect'), rows)}"


# The files


def blank() -> Mapping[str, Tensor]:
    """The weights of SD3.5-M without values."""
    with torch.device("meta"):
        return sd3(24, 4096, 2048, dual=13, positions=384).state_dict()


def write(shapes: Mapping[str, tuple[int, ...]], files: Mapping[Path, Callable[[Tensor, int], Tensor]]) -> None:
    """Safetensors files written tensor by tensor; `files` make each file's weight of the base's and a seed."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    opened = {path: path.open("wb") for path in files}
    for file in opened.values():
        file.write(struct.pack("<Q", len(encoded)) + encoded)
    for seed, (name, shape) in enumerate(shapes.items()):
        weight = random_weight(name, shape, seed)
        for path, make in files.items():
            values = make(weight, seed).to(torch.bfloat16).contiguous()
            opened[path].write(values.view(torch.uint8).numpy().data)
    for file in opened.values():
        file.close()


def random_weight(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """A weight that keeps the size of activations; norms one, biases and positions zero."""
    if len(shape) < 2 or name == "pos_embed.pos_embed":
        return torch.full(shape, float("norm" in name and name.endswith(".weight")), dtype=torch.bfloat16)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (values * math.prod(shape[1:]) ** -0.5).to(torch.bfloat16)


def tuned(weight: Tensor, seed: int) -> Tensor:
    """`weight` with a low-rank change and noise, each at its share of the weight's norm."""
    if weight.ndim != 2:
        return weight
    generator = torch.Generator().manual_seed(10_000 + seed)
    spread = weight.float().norm() / weight.numel() ** 0.5
    up, down = (torch.randn(size, TRUE_RANK, generator=generator) for size in weight.shape)
    change = (up @ down.T).mul_(SIZE * TRUE_RANK**-0.5 * spread)
    change += torch.randn(weight.shape, generator=generator).mul_(NOISE * spread)
    return weight + change


# Extraction


def extracted(base: Path, rl: Path, folder: Path) -> dict[str, Any]:
    """Rows of the table, the kept energy by rank, and the path of the adapter."""
    started = host.start()
    started.folder_paths.set_output_directory(str(folder))
    pair, extraction = (started.module(f"nodes.host.models.{name}") for name in ("checkpoint_pair", "extraction"))
    trim()
    before = device_bytes("VmRSS")
    reset_peak()
    clock = now()
    with torch.inference_mode():
        found, _ = pair.extract_from_files(base, rl, RANK, 1.0)
        seconds, peak = now() - clock, device_bytes("VmHWM") - before
        terms = sum(t.nbytes for term in found.terms.values() for t in vars(term).values() if isinstance(t, Tensor))
        path = extraction.save(found, "loras/extracted")
    low_rank = [key for key, term in found.terms.items() if isinstance(term, extraction.LowRank)]
    kept = {rank: kept_at(found, low_rank, rank) for rank in RANKS}
    largest = 4 * max(math.prod(shape) for name, shape in linear_shapes())
    rows = [
        ("weights compared, of which differ", f"{found.compared}, {len(found.terms)}"),
        ("rounding of the two files, of the difference's energy", f"{100 * found.floor_in_all():.2f} %"),
        ("largest weight, in float32", f"{largest / 1e6:.0f} MB"),
        ("largest buffer (position embeddings), in bfloat16", f"{buffer_bytes() / 1e6:.0f} MB"),
        ("peak memory above the process's before", f"{peak / 1e6:.0f} MB, {peak / largest:.1f} x the largest weight"),
        ("of which the adapter itself", f"{terms / 1e6:.0f} MB"),
        ("peak while it is saved", f"{(device_bytes('VmHWM') - before) / 1e6:.0f} MB"),
        ("processor time", f"{seconds:.0f} s, {seconds / len(low_rank):.2f} s per weight of {len(low_rank)}"),
        ("adapter file", f"{path.stat().st_size / 1e6:.0f} MB"),
    ]
    return {"rows": rows, "kept": kept, "path": str(path)}


def buffer_bytes() -> int:
    """The position embeddings of each file are compared with the other's, piece by piece."""
    return 2 * math.prod(blank()["pos_embed.pos_embed"].shape)


def linear_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """The weights of the host's layout are fused of three; the largest of all is a modulation, which is not."""
    return ((name, tuple(value.shape)) for name, value in blank().items() if name != "pos_embed.pos_embed")


def kept_at(found: Any, low_rank: list[str], rank: int) -> float:
    """The share of the low-rank weights' difference that terms cut down to `rank` keep.

    Singular values are those of the extraction at RANK: they are split evenly between the factors, largest first.
    """
    kept = total = 0.0
    for key in low_rank:
        term, norm = found.terms[key], found.norms[key]
        values = term.up.float().flatten(1).norm(dim=0) * term.down.float().flatten(1).norm(dim=1)
        squares = values.double().square()
        kept += float(squares[: at_rank(key, rank)].sum() / squares.sum()) * found.kept[key] * norm
        total += norm
    return kept / total


def at_rank(name: str, rank: int) -> int:
    """The rank that a weight gets at most: the host fuses query, key and value in one."""
    return rank * (3 if ".qkv" in name else 1)


# Against two checkpoints


def compared(base: Path, rl: Path, adapter: Path) -> dict[int, tuple[str, str]]:
    """By rank: the error of the latent that guidance gives, and the same relative to the effect.

    In a run of one step the latent is affine in the scale. So each model is loaded alone, and guidance computed.
    """
    started = host.start()
    settings = Sampling(
        steps=1,
        cfg=1.0,
        shape=(1, 16, SIDE, SIDE),
        positive=conditioning(11, 4096, 2048, TOKENS),
        negative=conditioning(12, 4096, 2048, TOKENS),
    )
    with torch.inference_mode():
        tuned_latent = settings.run(started, loaded(started, rl))
        started.comfy.model_management.unload_all_models()
        trim()
        model = loaded(started, base)
        alone = settings.run(started, model)
        exact = alone + SCALE * (tuned_latent - alone)
        return {rank: told(started, settings, model, adapter, rank, exact, alone) for rank in RANKS}


def loaded(started: SimpleNamespace, path: Path) -> Any:
    checkpoints = started.module("nodes.host.models.checkpoints")
    return checkpoints.reload_model(str(path), {"dtype": torch.bfloat16})


def told(
    started: SimpleNamespace, settings: Any, model: Any, adapter: Path, rank: int, exact: Tensor, alone: Tensor
) -> tuple[str, str]:
    say(f"sampling at rank {rank}")
    rl_model = started.comfy.sd.load_lora_for_models(model, None, cut(load_file(adapter), rank), 1.0, 0)[0]
    latent = settings.run(started, guide(started, model, rl_model, SCALE))
    effect = float((latent - exact).norm() / (exact - alone).norm())
    return f"{100 * relative_error(latent, exact):.3f} %", f"{100 * effect:.1f} %"


def cut(tensors: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The adapter at a lower rank: the first columns and rows of its factors, which are sorted."""
    for name in [name for name in tensors if name.endswith(".lora_up.weight")]:
        down, alpha = (name.replace("lora_up.weight", end) for end in ("lora_down.weight", "alpha"))
        kept = min(tensors[down].shape[0], at_rank(name, rank))
        tensors[alpha] = tensors[alpha] * kept / tensors[down].shape[0]
        tensors[name], tensors[down] = tensors[name][:, :kept].contiguous(), tensors[down][:kept].contiguous()
    return tensors
