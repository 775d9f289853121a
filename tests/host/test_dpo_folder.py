"""The paper's preference case in its real layout and size: SD1.5 in one file, DPO as a diffusers folder beside it.

The hosts know a diffusers UNet by its real widths alone, so that no small one will do: 860 million weights, float16 in
the files, float8 in memory. Both releases know it by the same names (test_unets.py) and pair checkpoints alike at small
size (test_checkpoint_pair.py), so that the newer one alone loads it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from support import guiding
from support.host import is_oldest
from support.sampling import unet_sampling
from support.tensors import largest, rms

pytestmark = [
    pytest.mark.usefixtures("inference_mode"),
    pytest.mark.skipif(is_oldest(), reason="is about size, which no release changes"),
]
BASE, RL = "checkpoints/v1-5.safetensors", "diffusion_models/dpo/unet/diffusion_pytorch_model.safetensors"
SCALE = 1.8
GEOMETRY = {"cross_attention_dim": 768, "attention_head_dim": 8}
"""All else is the diffusers class's own default."""


def shapes() -> dict[str, torch.Size]:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        network = UNet2DConditionModel(**GEOMETRY)
    return {name: weight.shape for name, weight in network.state_dict().items()}


def drawn(wanted: dict[str, torch.Size], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Weights under which a latent keeps its size. All are cut from one table: that takes a second, drawing all ten."""
    largest = max(shape.numel() for shape in wanted.values())
    table = torch.randn(largest + len(wanted), generator=torch.Generator().manual_seed(seed)).half()
    for place, (name, shape) in enumerate(wanted.items()):
        cut = table[place : place + shape.numel()].view(shape)
        if len(shape) > 1:
            yield name, cut / shape[1:].numel() ** 0.5
        else:
            yield name, torch.full(shape, float(name.endswith("weight")), dtype=torch.float16)


@pytest.fixture(scope="module")
def folder(host, tmp_path_factory) -> Iterator[Path]:
    """The models folder with both files; the RL model differs from the base in its attention."""
    root, wanted = tmp_path_factory.mktemp("dpo"), shapes()
    attention = {name: shape for name, shape in wanted.items() if ".to_" in name and len(shape) > 1}
    base = dict(drawn(wanted, 0))
    unet = host.comfy.model_detection.unet_config_from_diffusers_unet(base)
    names = host.comfy.utils.unet_to_diffusers(unet)
    for name in (BASE, RL):
        (root / name).parent.mkdir(parents=True)
    save_file({f"model.diffusion_model.{names[name]}": weight for name, weight in base.items()}, root / BASE)
    tuned = {name: base[name] + 0.5 * change for name, change in drawn(attention, 1)}
    save_file(base | tuned, root / RL)
    yield root
    shutil.rmtree(root, ignore_errors=True)  # 3.4 GB, which pytest would keep for three runs


@pytest.fixture
def known(host, folder, monkeypatch) -> Path:
    for kind in ("checkpoints", "diffusion_models"):
        monkeypatch.setitem(host.folder_paths.folder_names_and_paths, kind, ([str(folder / kind)], {".safetensors"}))
        host.folder_paths.filename_list_cache.pop(kind, None)
    return folder


def alone(host: Any, path: Path) -> Any:
    """The host's own model of a file."""
    options = {"dtype": torch.float8_e4m3fn}
    if path.parent.name == "checkpoints":
        return host.comfy.sd.load_checkpoint_guess_config(
            str(path), output_vae=False, output_clip=False, model_options=options
        )[0]
    return host.comfy.sd.load_diffusion_model(str(path), model_options=options)


def test_sd15_and_dpo(host, known):
    """One Euler step goes all the way to the prediction, so that a run of each model tells what to expect."""
    inputs = {"weight_dtype": "fp8_e4m3fn", "compress": "off", "rank": 4}
    model, rl_model, *_ = guiding.run_node(host, "RLGCheckpointPairLoader", base_name=BASE, rl_name=RL, **inputs)
    settings = unet_sampling(steps=1, cfg=1.0, shape=(1, 4, 8, 8))
    found = settings.run(host, guiding.guide(host, model, rl_model, SCALE))
    base, tuned = (settings.run(host, alone(host, known / name)) for name in (BASE, RL))
    expected = base + SCALE * (tuned - base)
    effect = rms(expected - base)
    assert effect > 1e-3
    assert largest(found, expected) < 3e-3 * effect
