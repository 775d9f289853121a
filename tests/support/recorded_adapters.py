"""Adapters of trainers that are not installed, each with the weights that its trainer merges.

With an older PEFT or LyCORIS first on the path, `python -m tests.support.recorded_adapters` records what it makes.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FILE = Path(__file__).with_name("recorded_adapters.safetensors")
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Recorded:
    """The tensors of an adapter file, the PEFT config beside it if there was one, and the base's weights with it."""

    tensors: Weights
    config: dict[str, Any] | None
    merged: Weights

    def write(self, folder: Path) -> Path:
        """The adapter as its trainer saves it."""
        if self.config is None:
            save_file(self.tensors, folder / "lycoris.safetensors")
            return folder / "lycoris.safetensors"
        save_file(self.tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(self.config))
        return folder


def recorded() -> tuple[Weights, dict[str, Recorded]]:
    """The base's weights, and every adapter in the file by name."""
    with safe_open(FILE, "pt") as file:
        configs = {name: json.loads(text) for name, text in file.metadata().items()}
    parts: dict[str, dict[str, Weights]] = {name: {"tensors": {}, "merged": {}} for name in configs}
    base: Weights = {}
    for key, value in load_file(FILE).items():
        *place, tensor = key.split("/")
        (parts[place[0]][place[1]] if place else base)[tensor] = value
    return base, {name: Recorded(config=configs[name], **own) for name, own in sorted(parts.items())}


# Recording


class Layers(nn.Module):
    """One layer of each kind, wide enough for butterflies."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(24, 16)
        self.conv = nn.Conv2d(8, 16, 3)
        self.pointwise = nn.Conv2d(8, 16, 1)


def layers() -> Layers:
    """The base of every adapter."""
    torch.manual_seed(0)
    return Layers()


def stirred(module: nn.Module) -> nn.Module:
    """`module` with all that it trains moved away from its start."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape)
    return module


PEFT = {
    "0.13": {
        "PEFT 0.13 OFT": ("OFT", {"r": 2}),
        "PEFT 0.13 OFT, one block": ("OFT", {"r": 2, "block_share": True}),
        "PEFT 0.13 COFT": ("OFT", {"r": 2, "coft": True, "eps": 0.01}),
    },
    "0.14": {
        "PEFT 0.14 OFT": ("OFT", {"r": 0, "oft_block_size": 4}),
        "PEFT 0.14 OFT, one block": ("OFT", {"r": 0, "oft_block_size": 4, "block_share": True}),
        "PEFT 0.14 COFT": ("OFT", {"r": 2, "oft_block_size": 0, "coft": True, "eps": 0.01}),
    },
    "0.17": {
        f"PEFT 0.17 OFT, {terms} terms": (
            "OFT",
            {"oft_block_size": 4, "use_cayley_neumann": True, "num_cayley_neumann_terms": terms},
        )
        for terms in (3, 5)
    },
}
ONLY_POINTWISE = ("0.17",)
"""Releases whose training and merging differ for kernels larger than 1."""

LYCORIS = {
    "diag-oft": ("diag_oft.DiagOFTModule", {"lora_dim": 4}),
    "diag-oft, constrained": ("diag_oft.DiagOFTModule", {"lora_dim": 4, "constraint": 0.02}),
    "diag-oft, rescaled": ("diag_oft.DiagOFTModule", {"lora_dim": 4, "rescaled": True}),
    "boft": ("boft.ButterflyOFTModule", {"lora_dim": 8}),
    "boft, constrained and rescaled": (
        "boft.ButterflyOFTModule",
        {"lora_dim": 4, "constraint": 0.02, "rescaled": True},
    ),
    "glora": ("glora.GLoRAModule", {"lora_dim": 3, "alpha": 6}),
}


def made_by_peft(kind: str, options: dict[str, Any], targets: list[str]) -> Recorded:
    import peft

    config = getattr(peft, f"{kind}Config")(target_modules=targets, **options)
    model = stirred(peft.get_peft_model(layers(), config)).eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = load_file(Path(folder, "adapter_model.safetensors"))
        written = json.loads(Path(folder, "adapter_config.json").read_text())
    return Recorded(tensors, written, model.merge_and_unload(safe_merge=True).state_dict())


def made_by_lycoris(place: str, options: dict[str, Any]) -> Recorded:
    from importlib import import_module

    module, _, name = place.partition(".")
    cls = getattr(import_module(f"lycoris.modules.{module}"), name)
    tensors, merged = {}, {}
    for layer_name, layer in layers().named_children():
        adapter = stirred(cls("adapter", layer.requires_grad_(False), 1.0, **options))
        tensors |= {f"lycoris_{layer_name}.{key}": value.clone() for key, value in adapter.state_dict().items()}
        merged[f"{layer_name}.weight"] = adapter.get_merged_weight()[0].detach()
    return Recorded(tensors, None, merged)


def made_here() -> dict[str, Recorded]:
    try:
        return {f"LyCORIS {name}": made_by_lycoris(*how) for name, how in LYCORIS.items()}
    except ImportError:
        import peft

        release = ".".join(peft.__version__.split(".")[:2])
        targets = ["linear", "pointwise", *([] if release in ONLY_POINTWISE else ["conv"])]
        return {name: made_by_peft(*how, targets) for name, how in PEFT[release].items()}


def main() -> None:
    known = recorded()[1] if FILE.exists() else {}
    tensors, configs = dict(layers().state_dict()), {}
    for name, one in sorted((known | made_here()).items()):
        configs[name] = json.dumps(one.config)
        tensors |= {f"{name}/tensors/{key}": value for key, value in one.tensors.items()}
        tensors |= {f"{name}/merged/{key}": value for key, value in one.merged.items() if key.endswith(".weight")}
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, FILE, configs)


if __name__ == "__main__":
    main()
