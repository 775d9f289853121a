"""Graphs and adapters as a release saved them, with the latents that it made: `tests/fixtures/<version>/`.

`python -m support.saved PACK VERSION`, run in `tests/`, has the pack in the folder PACK (a checkout of that release)
write them on the host that RLG_HOST_PATH names. Fixtures of a release are written once and never again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from . import host as hosts
from . import tiny
from .sampling import conditioning
from .tensors import random

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
LAYERS = ("x_block.attn.qkv", "x_block.attn.proj", "context_block.attn.qkv", "x_block.mlp.fc1")
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["to_q", "to_k", "to_out.0"]}


def base_weights() -> dict[str, Tensor]:
    """A SD3 of one block in the diffusers layout, with weights from seeds: no file has to keep them."""
    shapes = {name: value.shape for name, value in tiny.sd3_transformer(depth=1).state_dict().items()}
    weights = {name: random(*shape, seed=k, size=0.1) for k, (name, shape) in enumerate(sorted(shapes.items()))}
    return weights | {name: 1 + value for name, value in weights.items() if "norm" in name and value.ndim == 1}


def peft_tensors(seed: int) -> dict[str, Tensor]:
    """A PEFT adapter on that model."""
    tensors = {}
    for k, module in enumerate(CONFIG["target_modules"]):
        name = f"base_model.model.transformer_blocks.0.attn.{module}"
        tensors[f"{name}.lora_A.weight"] = random(2, 64, seed=seed + k, size=0.2)
        tensors[f"{name}.lora_B.weight"] = random(64, 2, seed=seed + 10 + k, size=0.2)
    return tensors


def given(host: SimpleNamespace) -> dict[str, Any]:
    """What the graphs take from outside: a model, prompts, a latent and a mask."""
    return {
        "base": tiny.load_weights(host, base_weights()),
        "positive": conditioning(11),
        "negative": conditioning(12),
        "latent": {"samples": torch.zeros(2, 16, 8, 8)},
        "mask": torch.linspace(0, 1, 64).reshape(1, 8, 8),
    }


def evaluated(host: SimpleNamespace, graph: Mapping[str, Any], node: str, known: dict[str, Any]) -> tuple:
    """Every output of a node of an API-format graph, with all that it needs; `known` keeps them."""
    if node not in known:
        spec = graph[node]
        links = {k: v for k, v in spec["inputs"].items() if isinstance(v, list)}
        inputs = spec["inputs"] | {k: _output(host, graph, *v, known) for k, v in links.items()}
        cls = host.classes[spec["class_type"]]
        result = cls.execute(**inputs) if hasattr(cls, "execute") else getattr(cls(), cls.FUNCTION)(**inputs)
        known[node] = getattr(result, "result", result)
    return known[node]


def _output(host: SimpleNamespace, graph: Mapping[str, Any], node: str, slot: int, known: dict[str, Any]) -> Any:
    return evaluated(host, graph, node, known)[slot] if node in graph else known[node]


def latents(host: SimpleNamespace, graphs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The latent of each graph's node `sampler`."""
    outside = given(host)
    return {
        name: evaluated(host, graph, "sampler", dict(outside))[0]["samples"].contiguous()
        for name, graph in graphs.items()
    }


# Writing them


def written_graphs() -> dict[str, Any]:
    """Graphs of the nodes of 0.1.0, with all inputs that they had."""

    def apply(model: str, rl_model: str, **inputs: Any) -> dict[str, Any]:
        settings = {"scale": 1.5, "start_percent": 0.0, "end_percent": 1.0, "outside_scale": 1.0, "rescale": 0.0}
        wires = {"model": [model, 0], "rl_model": [rl_model, 0]}
        if model == "base":
            wires["model"] = ["base", 0]
        return {"class_type": "RLGApply", "inputs": settings | inputs | wires}

    def loader(name: str) -> dict[str, Any]:
        inputs = {"model": ["base", 0], "lora_name": name, "strength": 1.0, "alpha": 0.0, "adapter": ""}
        return {"class_type": "RLGAdapterLoader", "inputs": inputs}

    def sampler(model: str, **inputs: Any) -> dict[str, Any]:
        settings = {"seed": 5, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
        wires = {name: [name, 0] for name in ("positive", "negative")} | {"latent_image": ["latent", 0]}
        return {"class_type": "KSampler", "inputs": settings | inputs | wires | {"model": [model, 0]}}

    def graph(rl: str = "peft", model: str = "guided", extra: dict | None = None, **inputs: Any) -> dict[str, Any]:
        nodes = {"rl": loader(rl), "guided": apply("base", "rl", **inputs)}
        return nodes | (extra or {}) | {"sampler": sampler(model)}

    def budget(**inputs: Any) -> dict[str, Any]:
        settings = {"evaluate": "exact", "refresh_every": 1, "tolerance": 0.0, "batching": "auto"}
        return {"class_type": "RLGBudget", "inputs": {"model": ["guided", 0], **settings, **inputs}}

    curve = {
        "shape": "cosine",
        "scale_from": 3.0,
        "scale_to": 0.5,
        "start_percent": 0.1,
        "end_percent": 0.8,
        "power": 1.0,
    }
    branch = {"rl_cfg": 0.0, "positive_scale": 0.5, "negative_scale": 1.5}
    return {
        **{f"adapter {rl}": graph(rl) for rl in ("peft", "saved.safetensors", "saved_peft", "extracted.safetensors")},
        "rl alone": {"rl": loader("peft"), "sampler": sampler("rl")},
        "base alone": {"sampler": sampler("base")},
        "scale 0": graph(scale=0.0),
        "scale 1": graph(scale=1.0),
        "negative scale": graph(scale=-1.0),
        "window": graph(start_percent=0.2, end_percent=0.6, outside_scale=0.0),
        "rescale": graph(scale=3.0, rescale=0.7),
        "mask": graph(mask=["mask", 0], outside_scale=0.0),
        "schedule": graph(extra={"curve": {"class_type": "RLGSchedule", "inputs": curve}}, schedule=["curve", 0]),
        "prompts apart": graph(extra={"branch": {"class_type": "RLGBranch", "inputs": branch}}, branch=["branch", 0]),
        "cfg of its own": graph(
            extra={
                "branch": {
                    "class_type": "RLGBranch",
                    "inputs": {**branch, "rl_cfg": 2.0, "positive_scale": 1.0, "negative_scale": 1.0},
                }
            },
            branch=["branch", 0],
        ),
        "linearised": graph(model="budget", extra={"budget": budget(evaluate="linearised")}),
        "refreshes": graph(model="budget", extra={"budget": budget(refresh_every=2)}),
        "sequential": graph(model="budget", extra={"budget": budget(batching="sequential")}),
        "traced": graph(
            model="traced", extra={"traced": {"class_type": "RLGTrace", "inputs": {"model": ["guided", 0]}}}
        ),
        "two experts": graph(
            model="second",
            extra={"rl2": loader("extracted.safetensors"), "second": apply("guided", "rl2", scale=0.7)},
        ),
    }


def write(host: SimpleNamespace, folder: Path) -> None:
    """Has the host's pack save its adapters, and keeps the graphs and their latents."""
    loras = folder / "loras"
    (loras / "peft").mkdir(parents=True)
    save_file(peft_tensors(0), loras / "peft" / "adapter_model.safetensors")
    (loras / "peft" / "adapter_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n", encoding="utf-8")
    use_loras(host, loras)
    host.folder_paths.set_output_directory(str(folder / "output"))
    base = given(host)["base"]
    rl = host.classes["RLGAdapterLoader"].execute(base, "peft", 1.25, 0.0, "").result[0]
    for form, name in (("comfyui", "saved.safetensors"), ("peft", "saved_peft")):
        made = host.classes["RLGSaveAdapter"].execute(base, rl, "adapter", form).result[0]
        shutil.move(made, loras / name)
    tuned = {
        k: v + random(*v.shape, seed=7, size=0.02) * k.endswith("attn.to_out.0.weight")
        for k, v in base_weights().items()
    }
    other = tiny.load_weights(host, tuned)
    host.classes["RLGExtractAdapter"].execute(base, other, 4, 1.0, "extracted")
    (made,) = (folder / "output").glob("extracted*")
    shutil.move(made, loras / "extracted.safetensors")
    shutil.rmtree(folder / "output")
    graphs = written_graphs()
    (folder / "graphs.json").write_text(json.dumps(graphs, indent=1) + "\n", encoding="utf-8")
    save_file(latents(host, graphs), folder / "latents.safetensors")


def use_loras(host: SimpleNamespace, folder: Path) -> None:
    host.folder_paths.folder_names_and_paths["loras"] = ([str(folder)], {".safetensors"})
    host.folder_paths.filename_list_cache.pop("loras", None)


if __name__ == "__main__":
    hosts.REPOSITORY = Path(sys.argv[1]).resolve()
    write(hosts.start_host(Path(os.environ["RLG_HOST_PATH"])), FIXTURES / sys.argv[2])
