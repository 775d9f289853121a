"""Rewards on the host: model folders, devices and memory as for its own models."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import comfy.model_management
import comfy.sd1_clip
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...rlg_core.errors import RLGError
from ...rlg_core.rewards import KINDS, Kind, ScoreCache, batches
from .demo import DEMO

FOLDER = "rlg_rewards"
NO_FOLDER = "none"
BATCH = 16
"""Pictures a call of a reward network."""

ACTIVATIONS = BATCH * 64 * 2**20
"""Bytes that a call is granted beside the weights: a ViT-H on one picture takes less than 64 MiB."""

CLIP_TOKENIZER = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"
"""CLIP's tokenizer, which the host carries and all CLIPs share."""

folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


def _demo(name: str) -> Callable[[Path, Path], Callable]:
    """A reward of the demo's scenes, where the demo lies beside the pack."""

    def load(*_: Path) -> Callable[[Tensor, Sequence[str]], Tensor]:
        rewards = importlib.import_module("...demo.rewards", __package__)
        scenes = importlib.import_module("...demo.scenes", __package__)

        def score(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
            try:
                asked = [scenes.parse(prompt) for prompt in prompts]
            except ValueError as error:
                raise RLGError(str(error)) from error
            return rewards.REWARDS[name](pictures[..., :3].float().movedim(-1, 1), asked)

        return score

    return load


DEMO_KINDS = {
    "scene judge (demo)": Kind(_demo("composition"), "right number, colour and shape in the demo's scenes", False),
    "brightness (demo)": Kind(_demo("brightness"), "mean luma; what one of the demo's adapters was trained on", False),
}


def kinds() -> dict[str, Kind]:
    """What can be loaded here: the demo's rewards are offered where the demo is."""
    return KINDS | (DEMO_KINDS if (DEMO / "rewards.py").is_file() else {})


def folders() -> list[str]:
    """The model folders below `models/rlg_rewards`, each by its name."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(FOLDER)]
    names = {path.name for root in roots if root.is_dir() for path in root.iterdir() if path.is_dir()}
    return [NO_FOLDER, *sorted(names)]


def fingerprint(name: str) -> str:
    """Changes when a file of the model folder does; the host reads the folder again then."""
    if name not in folders() or name == NO_FOLDER:
        return name
    files = sorted(path for path in folder_path(name).rglob("*") if path.is_file())
    return repr([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files])


def folder_path(name: str) -> Path:
    """Where the folder of that name lies. Raises `RLGError` where there is none."""
    roots = folder_paths.get_folder_paths(FOLDER)
    for root in roots:
        path = Path(root) / name
        if name in folders() and path.is_dir():
            return path
    raise RLGError(
        f"This reward needs a model folder, and {name!r} is none in {', '.join(roots)}. The node's help lists its files."
    )


class _Holder(nn.Module):
    """A network as the host's patcher wants it: a plain module that it may give attributes."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network


class Reward:
    """What an RLG_REWARD wire carries: `scores(pictures, prompts)`. Remembers the scores of pictures seen before."""

    def __init__(self, name: str, folder: str = NO_FOLDER):
        kind = kinds()[name]
        path = folder_path(folder) if kind.needs_folder else Path()
        loaded = kind.load(path, CLIP_TOKENIZER)
        self.name, self.kind, self.cache = name, kind, ScoreCache()
        self.network = loaded if isinstance(loaded, nn.Module) else None
        self.score = batches(loaded, BATCH)
        self.patcher = None if self.network is None else self._patcher(self.network)

    @staticmethod
    def _patcher(network: nn.Module) -> ModelPatcher:
        # float32: the scores of neighbouring scales differ by less than half precision rounds them.
        device = comfy.model_management.text_encoder_device()
        offload = comfy.model_management.text_encoder_offload_device()
        return ModelPatcher(_Holder(network.to(offload, torch.float32)), load_device=device, offload_device=offload)

    def scores(self, pictures: Tensor, prompts: Sequence[str]) -> list[float]:
        """One score for each of pictures [n, h, w, 3] in [0, 1] and its prompt."""
        if not self.kind.needs_prompt:
            prompts = [""] * len(pictures)
        return self.cache(self._score_new, pictures, prompts)

    @torch.inference_mode()
    def _score_new(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        if self.patcher is not None:
            # Whole: these networks are not built of the host's layers, which alone can stay behind and follow later.
            comfy.model_management.load_models_gpu([self.patcher], memory_required=ACTIVATIONS, force_full_load=True)
        return self.score(pictures, prompts)
