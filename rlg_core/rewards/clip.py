"""Rewards built on CLIP in the `transformers` layout: CLIP score, PickScore (arXiv 2305.01569), LAION aesthetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ..errors import RLGError, shortened
from .files import load_weights, read_config, weights_file
from .head import LinearStack
from .pixels import crop, prepared

CLIP_WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
AESTHETIC_HEADS = ("sac+logos+ava1-l14-linearMSE.pth", "sac+logos+ava1-l14-linearMSE.safetensors")
TOKENS = 77
MOST = {"num_hidden_layers": 200, "image_size": 1024, "max_position_embeddings": 4096}
"""Bounds for a CLIP's config: what is built by count before any weight is read. Real ones have a quarter of it."""


class ClipFeatures(nn.Module):
    """A CLIP model and its tokenizer. Features have length 1."""

    def __init__(self, clip: nn.Module, tokenizer: Any, fit: Callable[[Tensor, int], Tensor] = crop):
        super().__init__()
        self.clip, self.tokenizer, self.fit = clip, tokenizer, fit

    def images(self, pictures: Tensor) -> Tensor:
        """Features of pictures: [n, h, w, 3] -> [n, width], float32."""
        pixels = prepared(pictures, self.clip.config.vision_config.image_size, self.fit)
        pooled = self.clip.vision_model(pixel_values=pixels.to(self.clip.device, self.clip.dtype)).pooler_output
        return functional.normalize(self.clip.visual_projection(pooled).float(), dim=-1)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Features of n prompts: [n, width], float32. Each distinct prompt is encoded once, cut at 77 tokens."""
        unique = list(dict.fromkeys(prompts))
        tokens = self.tokenizer(unique, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
        inputs = {name: tokens[name].to(self.clip.device) for name in ("input_ids", "attention_mask")}
        pooled = self.clip.text_model(**inputs).pooler_output
        features = functional.normalize(self.clip.text_projection(pooled).float(), dim=-1)
        return features[[unique.index(prompt) for prompt in prompts]]

    def cosines(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return (self.images(pictures) * self.texts(prompts)).sum(-1)


class ClipScore(ClipFeatures):
    """100 cos(picture, text)."""

    def forward(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return 100.0 * self.cosines(pictures, prompts)


class PickScore(ClipFeatures):
    """exp(logit_scale) cos(picture, text): about 17 to 24."""

    def forward(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.clip.logit_scale.float().exp() * self.cosines(pictures, prompts)


class Cosine(ClipFeatures):
    """cos(picture, text)."""

    def forward(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.cosines(pictures, prompts)


class Aesthetic(ClipFeatures):
    """A linear head on the features of a picture: about 1 to 10. The prompt does not count."""

    def __init__(self, clip: nn.Module, tokenizer: Any, head: LinearStack):
        super().__init__(clip, tokenizer)
        self.head = head

    def forward(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.head(self.images(pictures))


def load_clip(folder: Path) -> nn.Module:
    """A `CLIPModel` from a folder with `config.json` and weights. Raises `RLGError` if weights are missing."""
    from transformers import CLIPModel

    _require_bounded(weights_file(folder, ["config.json"]))
    weights_file(folder, CLIP_WEIGHTS)
    clip, info = CLIPModel.from_pretrained(folder, local_files_only=True, weights_only=True, output_loading_info=True)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise RLGError(f"{folder}: {len(missing)} weights of the CLIP model are missing, first {missing[0]}.")
    return clip.eval().requires_grad_(False)


def _require_bounded(path: Path) -> None:
    """Raises `RLGError` if a config asks for so many parts that building them would take all memory."""
    config = read_config(path)
    for tower in (config, config.get("text_config"), config.get("vision_config")):
        for name, most in MOST.items():
            value = tower.get(name, 0) if isinstance(tower, dict) else 0
            if not isinstance(value, int) or value > most:
                raise RLGError(f"{path}: {name} is {shortened(value)}, expected a whole number of at most {most}.")


def load_tokenizer(folder: Path, shared: Path) -> Any:
    """The tokenizer in `folder`, or else the one in `shared`: all these models use CLIP's own."""
    from transformers import CLIPTokenizer

    own = all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    return CLIPTokenizer.from_pretrained(folder if own else shared, local_files_only=True)


def clip_score(folder: Path, clip_tokenizer: Path) -> ClipScore:
    """From `openai/clip-vit-large-patch14` or any CLIP in the same layout."""
    return ClipScore(load_clip(folder), load_tokenizer(folder, clip_tokenizer))


def pick_score(folder: Path, clip_tokenizer: Path) -> PickScore:
    """From `yuvalkirstain/PickScore_v1`."""
    return PickScore(load_clip(folder), load_tokenizer(folder, clip_tokenizer))


def aesthetic(folder: Path, clip_tokenizer: Path) -> Aesthetic:
    """From `openai/clip-vit-large-patch14` with `sac+logos+ava1-l14-linearMSE.pth` beside it."""
    path = weights_file(folder, AESTHETIC_HEADS)
    head = LinearStack(load_weights(path), str(path))
    return Aesthetic(load_clip(folder), load_tokenizer(folder, clip_tokenizer), head)
