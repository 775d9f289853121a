"""The templates for public models, run on a real server with small random weights under the files' own names.

Sizes and steps are cut. CLIP-G, T5-XXL, UMT5-XXL and Qwen2.5-VL have no small form that the hosts load: there, and only
there, the text nodes are replaced by random conditionings of the right widths. SD1.5 runs with its own text encoder.
"""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from support.host import repository_on_path
from support.public_files import ADAPTERS, WRITERS, PublicFiles

with repository_on_path():
    from support.graphs import PUBLIC, load
    from support.servers import running_server

TEXTS = {
    "SD3.5": {"width": 96, "pooled": 64},
    "SDXL": {"width": 2048, "pooled": 1280},
    "FLUX": {"width": 4096, "pooled": 768},
    "Qwen": {"width": 3584, "pooled": 0},
    "Wan": {"width": 4096, "pooled": 0},
}
NO_SMALL_FORM = {
    "clip_l.safetensors",  # small enough, but it goes with T5-XXL here
    "t5xxl_fp16.safetensors",
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    "qwen_2.5_vl_7b_fp8_scaled.safetensors",
}
SMALL = {"width": 64, "height": 64, "length": 5}
TEXT_NODES = ("CLIPTextEncode", "TextEncodeQwenImageEditPlus")
NODE = '''
import torch


class RandomTexts:
    """Conditionings in the place of a text encoder's."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {name: ("INT", {"default": 0}) for name in ("width", "pooled", "seed")}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "texts"

    def texts(self, width, pooled, seed):
        generator = torch.Generator().manual_seed(seed)
        extra = {"pooled_output": torch.randn(1, pooled, generator=generator)} if pooled else {}
        return ([[torch.randn(1, 7, width, generator=generator), extra]],)


NODE_CLASS_MAPPINGS = {"RandomTexts": RandomTexts}
'''


@pytest.fixture(scope="module")
def server(host, tmp_path_factory):
    """A server whose models are all files that the templates name."""
    folder = tmp_path_factory.mktemp("public")
    node = folder / "custom_nodes" / "random_texts" / "__init__.py"
    node.parent.mkdir(parents=True)
    node.write_text(NODE, encoding="utf-8")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "example.png")
    files = PublicFiles(host, folder / "models")
    for directory, name in declared():
        if name not in NO_SMALL_FORM:
            files.write(directory, name)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        files.write("loras", f"your-qwen-image-run/{name}")
    with running_server(tmp_path_factory, folder) as running:
        (folder / "input").mkdir(exist_ok=True)
        (folder / "example.png").rename(folder / "input" / "example.png")
        yield running


def declared():
    """(folder, name) of every file that a template offers for download, each once."""
    graphs = [json.loads((path.parents[1] / path.name).read_text(encoding="utf-8")) for path in PUBLIC]
    models = [model for graph in graphs for node in graph["nodes"] for model in node["properties"].get("models", [])]
    return list(dict.fromkeys((model["directory"], model["name"]) for model in models))


def cut(name, graph):
    """The graph at a small size with few steps, and without text encoders that have no small form."""
    for node in graph.values():
        inputs = node["inputs"]
        inputs.update({key: SMALL[key] for key in SMALL if key in inputs})
        if "steps" in inputs:
            inputs["steps"] = 2 if "end_at_step" in inputs else 1
        for key in ("start_at_step", "end_at_step"):
            if inputs.get(key) == 2:  # where the two samplers meet
                inputs[key] = 1
        if node["class_type"] == "FluxKontextImageScale":
            node["class_type"] = "ImageScale"
            inputs.update(width=64, height=64, upscale_method="bilinear", crop="disabled")
    return graph if "SD1.5" in name else without_text_encoder(name, graph)


def without_text_encoder(name, graph):
    """The graph with random conditionings; an edited picture stays a reference."""
    widths = next(widths for family, widths in TEXTS.items() if family in name or (family == "SDXL" and "Any" in name))
    for seed, (key, node) in enumerate(list(graph.items())):
        if node["class_type"] in TEXT_NODES:
            graph[key] = {"class_type": "RandomTexts", "inputs": widths | {"seed": seed}}
            if "image1" in node["inputs"]:
                graph[f"{key}_text"] = graph[key]
                inputs = {"conditioning": [f"{key}_text", 0], "latent": ["latent", 0]}
                graph[key] = {"class_type": "ReferenceLatent", "inputs": inputs}
    return {key: node for key, node in graph.items() if node["class_type"] not in ("CLIPLoader", "DualCLIPLoader")}


def frames(server, graph):
    """Every picture that a graph saves, the frames of a video too: (number, height, width, 3)."""
    (saved,) = (output["images"] for output in server.run(graph).values() if output.get("images"))
    data = server.image({key: saved[0][key] for key in ("filename", "subfolder", "type")})
    if saved[0]["filename"].endswith(".png"):
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[None]
    import av

    with av.open(io.BytesIO(data)) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


@pytest.mark.parametrize("path", PUBLIC, ids=lambda path: path.stem)
def test_template_runs_and_the_scale_counts(server, path):
    graph = cut(path.stem, load(path))
    guided = frames(server, graph)
    assert guided.shape[1:] == (64, 64, 3) and len(guided) == (5 if "Wan" in path.stem else 1)
    assert guided.std() > 2, "the picture is flat"
    for node in graph.values():
        if node["class_type"] == "RLGApply":
            node["inputs"].update(scale=0.0, outside_scale=0.0)
    base = frames(server, graph)
    assert np.abs(guided.astype(int) - base).max() > 2


def test_every_file_is_one_that_the_templates_name():
    names = {name for _, name in declared()} - NO_SMALL_FORM
    own = {f"your-qwen-image-run/{name}" for name in ("adapter_config.json", "adapter_model.safetensors")}
    assert set(WRITERS) == names | own and "your-qwen-image-run" in ADAPTERS
