"""The models of a soak beside the demo's: three tiny architectures with an adapter each, a style, and a broken file.

`python -m bench.soak.models FOLDER` writes them below FOLDER; the host that RLG_HOST_PATH names makes their layouts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from support import tiny
from support.host import import_host

UNET_LAYER = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
STYLED = ("transformer.transformer_blocks.0.attn.to_out.0", 192)
"""A layer of the demo's model, and its width."""


def write(host_path: Path, folder: Path) -> None:
    """Writes them into the model folders below `folder`."""
    unets, loras = folder / "diffusion_models", folder / "loras"
    for made in (unets, loras):
        made.mkdir(parents=True, exist_ok=True)
    host = import_host(host_path)
    sd3 = tiny.sd3_transformer()
    save_file(sd3.state_dict(), unets / "soak-sd3.safetensors")
    adapter = loras / "soak-sd3-rl.safetensors"
    save_file(tiny.lora_file(tiny.with_adapter(sd3, tiny.SD3_TARGETS)), adapter)
    (loras / "soak-broken.safetensors").write_bytes(adapter.read_bytes()[:5000])
    save_file(tiny.unet_weights(host), unets / "soak-unet.safetensors")
    save_file(lora(UNET_LAYER, 320), loras / "soak-unet-rl.safetensors")
    save_file(tiny.wan_weights(host), unets / "soak-wan.safetensors")
    save_file(lora("diffusion_model.blocks.0.self_attn.q", 256), loras / "soak-wan-rl.safetensors")
    save_file(lora(*STYLED), loras / "soak-style.safetensors")


def lora(module: str, width: int) -> dict[str, Tensor]:
    """A LoRA of rank 2 on one square layer."""
    generator = torch.Generator().manual_seed(width)
    return {
        f"{module}.lora_B.weight": torch.randn(width, 2, generator=generator) * 0.05,
        f"{module}.lora_A.weight": torch.randn(2, width, generator=generator) * 0.05,
        f"{module}.alpha": torch.tensor(2.0),
    }


if __name__ == "__main__":
    write(Path(os.environ["RLG_HOST_PATH"]), Path(sys.argv[1]))
