"""HPSv2.1 (arXiv 2306.09341): an OpenCLIP ViT-H-14 file, `HPS_v2.1_compressed.pt`, run as a `transformers` CLIP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from .clip import Cosine, load_tokenizer
from .files import fill, load_weights, weights_file
from .pixels import pad

FILES = ("HPS_v2.1_compressed.pt", "HPS_v2.1_compressed.safetensors")
VISION_HEAD, TEXT_HEAD = 80, 64
"""Width of an attention head in the two towers of ViT-H-14."""

IGNORED = re.compile(r"attn_mask$")

NAMES = (
    (r"^visual\.transformer\.resblocks\.(\d+)\.", r"vision_model.encoder.layers.\1."),
    (r"^transformer\.resblocks\.(\d+)\.", r"text_model.encoder.layers.\1."),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.attn\.", ".self_attn."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
)
"""OpenCLIP's names -> those of `transformers`: substitutions, applied in turn."""

TRANSPOSED = ("visual_projection.weight", "text_projection.weight")


def converted(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP weights under the names of `transformers.CLIPModel`, with fused q, k, v split up."""
    out: dict[str, Tensor] = {}
    for name, value in weights.items():
        if IGNORED.search(name):
            continue
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        if ".in_proj_" in name:
            stem, kind = name.split(".in_proj_")
            out |= {f"{stem}.{letter}_proj.{kind}": part for letter, part in zip("qkv", value.chunk(3))}
        else:
            out[name] = value.T.contiguous() if name in TRANSPOSED else value
    return out


def _layers(weights: Mapping[str, Tensor], tower: str) -> int:
    """How many layers there are. Their numbers are not counted on: a single name could ask for any number of them."""
    return len({match[1] for name in weights if (match := re.match(rf"{tower}\.encoder\.layers\.(\d+)\.", name))})


def _empty_clip(weights: Mapping[str, Tensor]) -> nn.Module:
    """A CLIPModel of the sizes found in `weights`, not yet filled with them."""
    from transformers import CLIPConfig, CLIPModel

    patch = weights["vision_model.embeddings.patch_embedding.weight"]
    side = round((len(weights["vision_model.embeddings.position_embedding.weight"]) - 1) ** 0.5)
    vocabulary, width = weights["text_model.embeddings.token_embedding.weight"].shape

    def tower(name: str, size: int, head: int) -> dict:
        inner = weights[f"{name}.encoder.layers.0.mlp.fc1.weight"].shape[0]
        return {
            "hidden_size": size,
            "intermediate_size": inner,
            "num_hidden_layers": _layers(weights, name),
            "num_attention_heads": size // head,
            "hidden_act": "gelu",
        }

    return CLIPModel(
        CLIPConfig(
            projection_dim=weights["text_projection.weight"].shape[0],
            text_config=tower("text_model", width, TEXT_HEAD)
            | {
                "vocab_size": vocabulary,
                "bos_token_id": vocabulary - 2,
                "eos_token_id": vocabulary - 1,
                "max_position_embeddings": len(weights["text_model.embeddings.position_embedding.weight"]),
            },
            vision_config=tower("vision_model", patch.shape[0], VISION_HEAD)
            | {
                "patch_size": patch.shape[-1],
                "image_size": side * patch.shape[-1],
            },
        )
    )


def hps(folder: Path, clip_tokenizer: Path) -> Cosine:
    """From `xswu/HPSv2`. Scores are cosines, about 0.2 to 0.35."""
    path = weights_file(folder, FILES)
    weights = converted(load_weights(path))
    clip = _empty_clip(weights)
    fill(clip, weights, path)
    return Cosine(clip.eval().requires_grad_(False), load_tokenizer(folder, clip_tokenizer), pad)
