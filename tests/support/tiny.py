"""Tiny models in real key layouts: diffusers classes make the weights, the host loads them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .tensors import cloned, random_weights

SD3_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
RANK, ALPHA = 4, 8


def sd3_transformer(seed: int = 0, depth: int = 2, **options: Any) -> nn.Module:
    """SD3 layout; the host reads the depth off the width (64 per layer). Text width 96, pooled width 64."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(seed)
    model = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=depth,
        attention_head_dim=64,
        num_attention_heads=depth,
        joint_attention_dim=96,
        caption_projection_dim=64 * depth,
        pooled_projection_dim=64,
        pos_embed_max_size=24,
        **options,
    )
    return model.eval().requires_grad_(False)


def with_adapter(
    transformer: nn.Module, targets: list[str], rank: int = RANK, alpha: int = ALPHA, seed: int = 1
) -> nn.Module:
    """`transformer` under a real PEFT adapter with random weights in both matrices."""
    import peft

    model = peft.get_peft_model(transformer, peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets))
    fill(model, "default", seed)
    return model.eval().requires_grad_(False)


def fill(adapted: nn.Module, adapter: str, seed: int) -> None:
    """Gives both matrices of a PEFT adapter random weights."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name and f".{adapter}." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * (0.3 if "lora_A" in name else 0.05)


def lora_file(peft_model: nn.Module, alpha: int = ALPHA, adapter: str = "default") -> dict[str, Tensor]:
    """The adapter as the host's own LoRA loader takes it at true strength: PEFT keys, and an alpha for each."""
    import peft

    weights = cloned(peft.get_peft_model_state_dict(peft_model, adapter_name=adapter))
    alphas = {k.replace("lora_A.weight", "alpha"): torch.tensor(float(alpha)) for k in weights if "lora_A" in k}
    return weights | alphas


def sd3_adapted(depth: int = 2) -> nn.Module:
    """The tiny SD3 under an adapter on its attention."""
    return with_adapter(sd3_transformer(depth=depth), SD3_TARGETS)


def sd3_lora(depth: int = 2) -> dict[str, Tensor]:
    """The file of that adapter."""
    return lora_file(sd3_adapted(depth))


def sd3_pair(host: SimpleNamespace) -> tuple[Any, Any]:
    """(model, rl_model): the tiny SD3, and a clone with that adapter on it."""
    model = load(host, sd3_transformer())
    return model, with_lora(host, model, sd3_lora())


def load(host: SimpleNamespace, transformer: nn.Module, dtype: torch.dtype = torch.float32) -> Any:
    """`transformer`'s weights as a MODEL of the host."""
    return load_weights(host, transformer.state_dict(), dtype)


def load_weights(host: SimpleNamespace, weights: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> Any:
    """Weights, in diffusers' keys or the host's own, as a MODEL of the host."""
    # cloned: the host converts in place
    return host.comfy.sd.load_diffusion_model_state_dict(cloned(weights), model_options={"dtype": dtype})


def weights_of(model: Any) -> dict[str, Tensor]:
    """A MODEL's weights in the host's own keys."""
    return cloned(model.model.diffusion_model.state_dict())


def with_lora(host: SimpleNamespace, model: Any, lora: dict[str, Tensor], strength: float = 1.0) -> Any:
    """A clone of `model` with a LoRA on it, by the host's own loader."""
    return host.comfy.sd.load_lora_for_models(model, None, dict(lora), strength, 0)[0]


def unet_weights(host: SimpleNamespace, seed: int = 0, channels: int = 4) -> dict[str, Tensor]:
    """SD1.5 layout in the host's own keys: its width (320) and context, two levels of one block each, 40 M weights.

    With 9 `channels` it is an inpainting model.
    """
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    network = UNetModel(
        image_size=32,
        in_channels=channels,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[1, 1],
        channel_mult=(1, 1),
        transformer_depth=[1, 1],
        transformer_depth_output=[1, 1, 1, 1],
        transformer_depth_middle=1,
        num_heads=8,
        use_spatial_transformer=True,
        context_dim=768,
        legacy=False,
        dtype=torch.float32,
        operations=host.comfy.ops.manual_cast,
    )
    weights = random_weights(network, seed)
    weights["out.2.weight"] *= 0.1
    return weights


def wan_weights(host: SimpleNamespace) -> dict[str, Tensor]:
    """Wan 2.1's layout, whose blocks have a `modulation` of their own beside their layers."""
    from comfy.ldm.wan.model import WanModel

    network = WanModel(
        model_type="t2v",
        dim=256,
        in_dim=16,
        out_dim=16,
        ffn_dim=512,
        text_dim=4096,
        num_heads=2,
        num_layers=1,
        operations=host.comfy.ops.disable_weight_init,
        dtype=torch.float32,
    )
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(value.shape, generator=generator) * 0.02 + ("norm" in name and name.endswith("weight"))
        for name, value in network.state_dict().items()
    }
