"""Load RLG Checkpoint Pair: loads a base and an RL-tuned checkpoint of it, and of both only what guidance needs."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..rlg_core.errors import require_one_of, require_whole
from .host.models import files, fingerprints
from .host.models.checkpoint_pair import load_pair
from .host.models.checkpoints import WEIGHT_DTYPES
from .host.models.clip_and_vae import load_parts
from .host.schema import schema

COMPRESS = ("off", "low-rank")


class RLGCheckpointPairLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        names = files.model_names()
        return schema(
            node_id="RLGCheckpointPairLoader",
            shows=True,
            display_name="Load RLG Checkpoint Pair",
            description=(
                "Loads a base model and an RL-tuned checkpoint of it for Reinforcement Learning Guidance. Weights that "
                "are the same in both files are held once, and only the diffusion model is read from the RL file."
            ),
            search_aliases=[
                "checkpoint",
                "load checkpoint",
                "diffusion model",
                "UNET loader",
                "SRPO",
                "MixGRPO",
                "RL model",
            ],
            advanced=["weight_dtype"],
            inputs=[
                io.Combo.Input(
                    "base_name",
                    options=names,
                    tooltip="The base model: a .safetensors file below models/checkpoints or models/diffusion_models.",
                ),
                io.Combo.Input(
                    "rl_name", options=names, tooltip="The RL-tuned version of the base, of the same architecture."
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip=(
                        "The dtype in which the weights of both models are held. Neutral: default, as ComfyUI chooses."
                    ),
                ),
                io.Combo.Input(
                    "compress",
                    options=list(COMPRESS),
                    default="off",
                    tooltip=(
                        "off loads two models (neutral). low-rank loads one: the RL model becomes the base with the "
                        "difference beside it as a LoRA, which halves memory and runs both in one pass. The report "
                        "says how much of the difference it keeps."
                    ),
                ),
                io.Int.Input(
                    "rank",
                    default=64,
                    min=1,
                    max=4096,
                    tooltip=(
                        "The rank of each layer's difference if compress is low-rank; without effect otherwise. A LoRA "
                        "merged into a checkpoint is recovered at its own rank. Fused layers (q, k, v in one) get it "
                        "for each part."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The base model."),
                io.Model.Output(
                    display_name="rl_model",
                    tooltip=(
                        "The RL model, for the rl_model input of Reinforcement Learning Guidance or for any sampler."
                    ),
                ),
                io.Clip.Output(
                    display_name="CLIP",
                    tooltip="The base file's text encoder. Using it is an error if the file has none.",
                ),
                io.Vae.Output(
                    display_name="VAE", tooltip="The base file's VAE. Using it is an error if the file has none."
                ),
                io.String.Output(display_name="report", tooltip="What was loaded, and what the two files share."),
            ],
        )

    @classmethod
    def validate_inputs(cls, base_name: str | None = None, rl_name: str | None = None) -> bool | str:
        """Whether both files are whole, as far as their headers tell.

        Accepts whatever is in the folders now, and the plain names of stock loaders. Linked names are None here.
        """
        return files.refusal(base_name, rl_name) or True

    @classmethod
    def fingerprint_inputs(cls, base_name: str | None = None, rl_name: str | None = None, **_) -> str:
        return fingerprints.model_fingerprint(base_name, rl_name)

    @classmethod
    def execute(cls, base_name: str, rl_name: str, weight_dtype: str, compress: str, rank: int) -> io.NodeOutput:
        require_whole("rank", rank, 1)
        require_one_of("weight_dtype", weight_dtype, WEIGHT_DTYPES)
        require_one_of("compress", compress, COMPRESS)
        base, rl = files.model_path(base_name), files.model_path(rl_name)
        options = WEIGHT_DTYPES[weight_dtype]
        model, rl_model, report = load_pair(base, rl, options, rank if compress == "low-rank" else None)
        return io.NodeOutput(model, rl_model, *load_parts(base), report, ui=ui.PreviewText(report))


NODES = [RLGCheckpointPairLoader]
