"""Rewards on the host, which manages their folders, devices and memory like those of its own models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import comfy.model_management
import comfy.sd1_clip
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ....rlg_core.errors import RLGError, require_one_of
from ....rlg_core.rewards import KINDS, ScoreCache, batches, load_reward
from ..models.files import NO_FOLDER, reward_folder

BATCH = 16
"""Pictures per call of a reward network."""

ACTIVATIONS = BATCH * 64 * 2**20
"""Bytes reserved for a call beside the weights: a ViT-H takes less than 64 MiB per picture."""

CLIP_TOKENIZER = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"
"""CLIP's tokenizer, which the host carries and all CLIPs share."""


class _Holder(nn.Module):
    """Wraps a network in a plain module, on which the host's patcher may set attributes."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network


class Reward:
    """What an RLG_REWARD wire carries. It remembers the scores of pictures it has seen before."""

    def __init__(self, name: str, folder: str = NO_FOLDER):
        require_one_of("reward", name, KINDS)
        kind = KINDS[name]
        path = reward_folder(folder) if kind.needs_folder else Path()
        loaded = load_reward(name, path, CLIP_TOKENIZER)
        self.name, self.kind, self.cache = name, kind, ScoreCache()
        self.network = loaded if isinstance(loaded, nn.Module) else None
        self.score = batches(loaded, BATCH)
        self.patcher = None if self.network is None else self._patcher(self.network)

    @staticmethod
    def _patcher(network: nn.Module) -> ModelPatcher:
        # float32: the scores of neighbouring scales differ by less than the rounding of half precision.
        device = comfy.model_management.text_encoder_device()
        offload = comfy.model_management.text_encoder_offload_device()
        return ModelPatcher(_Holder(network.to(offload, torch.float32)), load_device=device, offload_device=offload)

    def scores(self, pictures: Tensor, prompts: Sequence[str]) -> list[float]:
        """The scores of n pictures [n, h, w, 3] in [0, 1] for their n prompts.

        Raises `RLGError` for no pictures, and for values that are NaN or infinite, which some rewards would not notice.
        """
        if not len(pictures) or not bool(pictures.isfinite().all()):
            got = "NaN or infinite values" if len(pictures) else "none"
            raise RLGError(f"The {self.name} reward got {got}: expected pictures with values from 0 to 1.")
        if not self.kind.needs_prompt:
            prompts = [""] * len(pictures)
        return self.cache(self._score_new, pictures, prompts)

    @torch.inference_mode()
    def _score_new(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        if self.patcher is not None:
            # Load it whole: only the host's own layers can be loaded later in parts, and these networks have none.
            comfy.model_management.load_models_gpu([self.patcher], memory_required=ACTIVATIONS, force_full_load=True)
        return self.score(pictures, prompts)
