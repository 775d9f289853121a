"""What the rules say of the architectures that diffusers cannot convert: the two networks are one function.

Every weight of diffusers' model is put where the rules say, and both networks are run.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor, nn

from support.architectures import ARCHITECTURES, BY_RULES
from support.cells import EVERY, NOT_ON
from support.host_models import host_network

TEXT = torch.Generator().manual_seed(5)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=TEXT)


def filled(model: nn.Module) -> nn.Module:
    """`model` with random weights that keep activations near 1."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        values = torch.randn(weight.shape, generator=generator)
        width = weight[0].numel()
        weight.data = values / width**0.5 if weight.ndim > 1 else 0.1 * values + 0.5
    return model.eval().requires_grad_(False)


def placed(host, plain: nn.Module, network: nn.Module) -> nn.Module:
    """`network` with the weights of `plain` where the rules say, every one of its own among them."""
    own = dict(network.state_dict())
    shapes = {key: tuple(weight.shape) for key, weight in own.items()}
    names = host.module("rlg_core.names").NameMap(shapes, "", {}, host.module("nodes.host.compat").WEIGHT_NAMES)
    found = {key: torch.full(shape, torch.nan) for key, shape in shapes.items()}
    for name, weight in plain.state_dict().items():
        module, _, parameter = name.rpartition(".")
        target = names.find(module, parameter) or names.find(name, "")
        rows = found[target.key] if target.cut is None else found[target.key].narrow(0, *target.cut)
        rows.copy_(torch.cat(weight.chunk(2)[::-1]) if target.swapped else weight)
    network.load_state_dict(found)
    return network.eval().requires_grad_(False)


def cogvideox(plain: nn.Module, network: nn.Module) -> tuple[Tensor, Tensor]:
    x, text, t, ofs = random(1, 32, 2, 4, 4), random(1, 5, 64), torch.tensor([500.0]), torch.tensor([2.0])
    rotary = network._get_rotary_emb(2, 2, 1, x.device)
    expected = plain(x.transpose(1, 2), text, t, ofs=ofs, image_rotary_emb=rotary, return_dict=False)[0]
    return expected.transpose(1, 2), network(x, t, text, ofs=ofs)


def hunyuan_video_15(plain: nn.Module, network: nn.Module) -> tuple[Tensor, Tensor]:
    x, t = random(1, 65, 1, 4, 4), torch.tensor([500.0])
    text, glyphs, image = random(1, 5, 3584), random(1, 3, 1472), random(1, 4, 1152)
    every = [torch.ones(1, states.shape[1]) for states in (text, glyphs)]
    expected = plain(
        x,
        t,
        text,
        every[0],
        encoder_hidden_states_2=glyphs,
        encoder_attention_mask_2=every[1],
        image_embeds=image,
        return_dict=False,
    )[0]
    return expected, network(x, t, context=text, txt_byt5=glyphs, clip_fea=image)


def hunyuan_image(plain: nn.Module, network: nn.Module) -> tuple[Tensor, Tensor]:
    """With the next step's time, which the distilled model sees, at sigma 0.5 of a schedule."""
    x, t, guidance = random(1, 64, 4, 4), torch.tensor([500.0]), torch.tensor([3.5])
    text, glyphs = random(1, 5, 3584), random(1, 3, 1472)
    every = [torch.ones(1, states.shape[1]) for states in (text, glyphs)]
    expected = plain(
        x,
        t,
        text,
        every[0],
        timestep_r=torch.tensor([250.0]),
        encoder_hidden_states_2=glyphs,
        encoder_attention_mask_2=every[1],
        guidance=guidance * 1000,
        return_dict=False,
    )[0]
    schedule = {"sigmas": torch.tensor([0.5]), "sample_sigmas": torch.tensor([1.0, 0.5, 0.25])}
    found = network(x, t, context=text, txt_byt5=glyphs, guidance=guidance, transformer_options=schedule)
    return expected, found


def longcat(plain: nn.Module, network: nn.Module) -> tuple[Tensor, Tensor]:
    x, text, t = random(1, 16, 4, 4), random(1, 5, 3584), torch.tensor([0.5])
    patches = x.reshape(1, 16, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 4, 64)
    txt_ids = torch.tensor([[0.0, i, i] for i in range(5)])
    img_ids = torch.tensor([[0.0, row, column] for row in range(2) for column in range(2)])
    expected = plain(patches, text, t, img_ids, txt_ids, return_dict=False)[0]
    expected = expected.reshape(1, 2, 2, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 16, 4, 4)
    return expected, network(x, t, text)


RUNS = {
    "CogVideoX": cogvideox,
    "HunyuanVideo 1.5": hunyuan_video_15,
    "HunyuanImage 2.1": hunyuan_image,
    "LongCat-Image": longcat,
}


def test_all_that_go_by_the_rules_are_proven():
    assert RUNS.keys() == {name for name, tiny in ARCHITECTURES.items() if tiny.to_diffusers == BY_RULES}


@pytest.mark.parametrize("name", sorted(RUNS))
def test_same_function(host, name):
    reason = NOT_ON.get((name, EVERY), {}).get(os.environ.get("RLG_HOST_VERSION"))
    if reason:
        pytest.skip(reason)
    import diffusers

    tiny = ARCHITECTURES[name]
    plain = filled(getattr(diffusers, tiny.cls)(**tiny.config))
    network = placed(host, plain, host_network(tiny, "cpu"))
    with torch.no_grad():
        expected, found = RUNS[name](plain, network)
    assert expected.std() > 0.1
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())
