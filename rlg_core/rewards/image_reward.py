"""ImageReward (arXiv 2304.05977): BLIP with a linear head, from the `ImageReward.pt` of `THUDM/ImageReward`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .files import below, fill, load_weights, read_config, weights_file
from .head import LinearStack
from .pixels import crop, prepared

FILES = ("ImageReward.pt", "ImageReward.safetensors")
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Mean and standard deviation of the raw scores on the authors' data. The reward is standardised by them."""

TOKENS = 35
VISION_HEAD = 64
VISION_EPSILON = 1e-6

VISION_NAMES = (
    (r"^blocks\.(\d+)\.norm(\d)\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
)
"""BLIP's names -> those of `transformers.BlipVisionModel`; the text encoder's are the same in both."""


class ImageReward(nn.Module):
    """How much people would like a picture for a prompt: 0 is average, 1 one standard deviation above it."""

    def __init__(self, vision: nn.Module, text: nn.Module, head: LinearStack, tokenizer: Any):
        super().__init__()
        self.vision, self.text, self.head, self.tokenizer = vision, text, head, tokenizer

    def forward(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        pixels = prepared(pictures, self.vision.config.image_size, crop)
        seen = self.vision(pixel_values=pixels.to(self.vision.device, self.vision.dtype)).last_hidden_state
        read = self.text(**self._tokens(prompts), encoder_hidden_states=seen).last_hidden_state
        return (self.head(read[:, 0]) - MEAN) / STD

    def _tokens(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        return {name: tokens[name].to(self.text.device) for name in ("input_ids", "attention_mask")}


def _vision(weights: Mapping[str, Tensor], path: Path) -> nn.Module:
    from transformers import BlipVisionConfig, BlipVisionModel

    named = {}
    for name, value in weights.items():
        for pattern, replacement in VISION_NAMES:
            name = re.sub(pattern, replacement, name)
        named[name] = value
    patch = weights["patch_embed.proj.weight"]
    side = round((weights["pos_embed"].shape[1] - 1) ** 0.5)
    model = BlipVisionModel(
        BlipVisionConfig(
            hidden_size=patch.shape[0],
            num_attention_heads=patch.shape[0] // VISION_HEAD,
            intermediate_size=weights["blocks.0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=_count(weights, "blocks"),
            image_size=side * patch.shape[-1],
            patch_size=patch.shape[-1],
            layer_norm_eps=VISION_EPSILON,
        )
    )
    fill(model, named, path)
    return model.eval().requires_grad_(False)


def _text(weights: Mapping[str, Tensor], folder: Path, path: Path) -> nn.Module:
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    config = read_config(weights_file(folder, ["med_config.json"]))
    kept = {name: value for name, value in weights.items() if not name.endswith("position_ids")}
    vocabulary, width = weights["embeddings.word_embeddings.weight"].shape
    model = BlipTextModel(
        BlipTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_attention_heads=config["num_attention_heads"],
            encoder_hidden_size=weights["encoder.layer.0.crossattention.self.key.weight"].shape[1],
            intermediate_size=len(weights["encoder.layer.0.intermediate.dense.weight"]),
            num_hidden_layers=_count(weights, "encoder.layer"),
            max_position_embeddings=len(weights["embeddings.position_embeddings.weight"]),
            layer_norm_eps=config["layer_norm_eps"],
            is_decoder=True,
        ),
        add_pooling_layer=False,
    )
    fill(model, kept, path)
    return model.eval().requires_grad_(False)


def _count(weights: Mapping[str, Tensor], name: str) -> int:
    """How many layers there are. Their numbers are not counted on: a single name could ask for any number of them."""
    return len({key[len(name) + 1 :].split(".")[0] for key in weights if key.startswith(f"{name}.")})


def image_reward(folder: Path, clip_tokenizer: Path) -> ImageReward:
    """From `THUDM/ImageReward` (`ImageReward.pt`, `med_config.json`) and `vocab.txt` of `bert-base-uncased`."""
    from transformers import BertTokenizer

    path = weights_file(folder, FILES)
    weights_file(folder, ["vocab.txt"])
    weights = load_weights(path)
    head = LinearStack(below(weights, "mlp."), str(path))
    vision = _vision(below(weights, "blip.visual_encoder."), path)
    text = _text(below(weights, "blip.text_encoder."), folder, path)
    return ImageReward(vision, text, head, BertTokenizer.from_pretrained(folder, local_files_only=True))
