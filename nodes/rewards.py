"""Scores of pictures: load a reward, score pictures, keep the best."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..rlg_core.errors import RLGError, require_number, require_whole, shortened
from ..rlg_core.pictures import to_picture, to_tensor
from ..rlg_core.report.plot import number
from ..rlg_core.report.sheet import captioned
from ..rlg_core.rewards import KINDS
from .host.models import files, fingerprints
from .host.schema import schema
from .host.scores.rewards import Reward
from .types import RewardType


class RLGRewardLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGRewardLoader",
            display_name="Load RLG Reward",
            description=(
                "Loads a reward: how good a picture is for a prompt. Reward models are folders below "
                "models/rlg_rewards."
            ),
            search_aliases=[
                "reward model",
                "PickScore",
                "HPS",
                "ImageReward",
                "aesthetic",
                "CLIP score",
                "OCR",
                "JPEG",
            ],
            inputs=[
                io.Combo.Input(
                    "reward",
                    options=list(KINDS),
                    tooltip="; ".join(f"{name}: {kind.about}" for name, kind in KINDS.items()) + ". Higher is better.",
                ),
                io.Combo.Input(
                    "folder",
                    options=files.reward_folders(),
                    default=files.NO_FOLDER,
                    tooltip=(
                        "The model's folder below models/rlg_rewards, with the files as published (see the help). "
                        "Neutral: none, for JPEG, OCR and the demo's rewards, which need no model."
                    ),
                ),
            ],
            outputs=[RewardType.Output(display_name="reward_model", tooltip="For RLG Reward and RLG Auto Scale.")],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        """Accepts a folder that was added after the page was loaded. A linked name is None here."""
        known = folder is None or folder in files.reward_folders()
        return known or f"{shortened(folder)} is no folder below models/{files.REWARDS}."

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **_) -> str:
        return fingerprints.reward_fingerprint(folder)

    @classmethod
    def execute(cls, reward: str, folder: str) -> io.NodeOutput:
        return io.NodeOutput(Reward(reward, folder))


class RLGReward(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGReward",
            display_name="RLG Reward",
            description="Scores each picture for the prompt. A picture that was scored before is not scored again.",
            search_aliases=["score", "rate image", "judge", "PickScore"],
            inputs=[
                io.Image.Input("image", tooltip="The pictures to score."),
                RewardType.Input("reward", tooltip="From Load RLG Reward."),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip=(
                        "What the pictures were made for. The text reward takes the wanted words from its double "
                        "quotes; JPEG and aesthetic need no prompt."
                    ),
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="scores", is_output_list=True, tooltip="One per picture, in the order of the pictures."
                ),
                io.Float.Output(display_name="mean"),
                io.Image.Output(display_name="annotated", tooltip="The pictures with their scores below them."),
            ],
        )

    @classmethod
    def execute(cls, image, reward, prompt: str) -> io.NodeOutput:
        scores = reward.scores(image, [prompt] * len(image))
        pages = [captioned(to_picture(picture), f"{reward.name}  {number(s)}") for picture, s in zip(image, scores)]
        return io.NodeOutput(scores, sum(scores) / len(scores), torch.stack([to_tensor(page) for page in pages]))


class RLGPickBest(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGPickBest",
            shows=True,
            display_name="RLG Pick Best",
            description="Best of n: keeps the pictures with the highest scores, best first.",
            search_aliases=["best of n", "rank images", "select best"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="A batch or a list of pictures."),
                io.Float.Input(
                    "scores", force_input=True, tooltip="One per picture, from RLG Reward or RLG Implicit Reward."
                ),
                io.Int.Input("keep", default=1, min=1, max=4096, tooltip="How many to keep. Neutral: 1."),
            ],
            outputs=[
                io.Image.Output(display_name="best"),
                io.Int.Output(
                    display_name="index",
                    is_output_list=True,
                    tooltip="The positions of the kept pictures, counted from 0.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, scores, keep) -> io.NodeOutput:
        pictures = [picture for batch in images for picture in batch]
        if len(scores) != len(pictures) or not pictures:
            raise RLGError(f"scores has {len(scores)} values for {len(pictures)} pictures: expected one per picture.")
        require_whole("keep", keep[0], 1)
        for k, score in enumerate(scores):
            require_number(f"score {k + 1}", score)
        best = sorted(range(len(scores)), key=lambda k: -scores[k])[: keep[0]]
        sizes = {tuple(pictures[k].shape) for k in best}
        if len(sizes) > 1:
            raise RLGError(
                f"The best pictures have sizes {sorted(sizes)}: expected one size, since they are kept as one batch."
            )
        kept = torch.stack([pictures[k] for k in best])
        return io.NodeOutput(kept, best, ui=ui.PreviewImage(kept, cls=cls))


NODES = [RLGRewardLoader, RLGReward, RLGPickBest]
