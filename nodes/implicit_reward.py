"""RLG Implicit Reward: how much the RL model prefers a picture, with no reward model."""

from __future__ import annotations

import math

from comfy_api.latest import io

from ..rlg_core.errors import LARGEST_SEED, require_whole
from .host.schema import schema
from .host.scores.implicit_reward import ERRORS, implicit_reward


class RLGImplicitReward(io.ComfyNode):
    """Diffusion-DPO's implicit reward (arXiv 2311.12908) up to beta: `E_{t, noise} [|v - v_base|^2 - |v - v_rl|^2]`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGImplicitReward",
            display_name="RLG Implicit Reward",
            description=(
                "Which pictures the RL model prefers over its base, judged by the two models themselves: how much "
                "better the RL model predicts a picture from noised versions of it, as a mean over elements. Above 0 "
                "it prefers the picture. Compare pictures of one prompt. For flow models it is no log ratio."
            ),
            search_aliases=["implicit reward", "DPO reward", "preference"],
            inputs=[
                io.Model.Input("model", tooltip="The base model."),
                io.Model.Input("rl_model", tooltip="The RL-tuned version, as for Reinforcement Learning Guidance."),
                io.Conditioning.Input("positive", tooltip="The prompt the pictures were made for."),
                io.Latent.Input("latent", tooltip="The pictures: a sampler's latent, or VAE Encode of any picture."),
                io.Int.Input(
                    "draws",
                    default=32,
                    min=1,
                    max=10000,
                    tooltip=(
                        "Noised versions of each picture. More of them make the standard error smaller; each costs one "
                        "evaluation of both models."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seeds the noise, which is the same for all pictures. Compare scores of the same seed.",
                ),
                io.Combo.Input(
                    "error",
                    options=list(ERRORS),
                    default="velocity",
                    optional=True,
                    tooltip=(
                        "velocity: all noise levels count the same (neutral; it ranked best on the demo pair). noise: "
                        "for flow models errors count (1 - t)^2, as errors of the noise do; no other model changes."
                    ),
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="scores", is_output_list=True, tooltip="One per picture, for RLG Pick Best."
                ),
                io.Float.Output(display_name="standard_errors", is_output_list=True),
            ],
        )

    @classmethod
    def execute(
        cls, model, rl_model, positive, latent, draws: int, seed: int, error: str = "velocity"
    ) -> io.NodeOutput:
        require_whole("draws", draws, 1)
        require_whole("seed", seed, 0, LARGEST_SEED)
        drawn = implicit_reward(model, rl_model, positive, latent["samples"], draws, seed, error).double()
        errors = drawn.std(0) / math.sqrt(draws) if draws > 1 else drawn[0] * math.nan
        return io.NodeOutput(drawn.mean(0).tolist(), errors.tolist())


NODES = [RLGImplicitReward]
