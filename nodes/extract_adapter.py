"""RLG Extract Adapter: makes a LoRA of the difference of two models, so that one copy of the weights is enough."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..rlg_core.errors import require_number, require_whole
from .host.models import extraction
from .host.schema import schema


class RLGExtractAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGExtractAdapter",
            display_name="RLG Extract Adapter",
            description=(
                "Makes a LoRA of what an RL-tuned checkpoint changes in its base, and saves it. Guidance then runs "
                "both in one pass over one copy of the weights. Biases, norms and small weights are kept exactly."
            ),
            search_aliases=["extract lora", "svd", "low rank", "compress"],
            inputs=[
                io.Model.Input("model", tooltip="The base model."),
                io.Model.Input("rl_model", tooltip="The RL-tuned version of it. Patches on it count."),
                io.Int.Input(
                    "rank",
                    default=64,
                    min=1,
                    max=4096,
                    tooltip=(
                        "The largest rank a layer gets. A LoRA merged into a checkpoint is recovered at its own rank. "
                        "Fused layers (q, k, v in one) get it for each part."
                    ),
                ),
                io.Float.Input(
                    "energy",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.001,
                    round=0.0001,
                    tooltip=(
                        "Below 1, each layer gets the smallest rank, up to rank, that keeps this share of its "
                        "difference (of the squared norm). Neutral: 1, the rank alone decides."
                    ),
                ),
                io.String.Input(
                    "filename_prefix",
                    default="loras/rlg_extracted",
                    tooltip=(
                        "The file below the output folder. A number is appended, and no file is overwritten. Move it "
                        "to models/loras to load it."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="rl_model",
                    tooltip=(
                        "The base with the low-rank difference on it, for the rl_model input of Reinforcement Learning "
                        "Guidance or for any sampler."
                    ),
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Where the file was saved, and the rank and kept energy of each layer.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model, rl_model, rank: int, energy: float, filename_prefix: str) -> io.NodeOutput:
        require_whole("rank", rank, 1)
        require_number("energy", energy, 0.0, 1.0)
        found = extraction.extract(model, rl_model, rank, energy)
        path = extraction.save(found, filename_prefix)
        report = f"Saved {path}\n{extraction.report(model, found)}"
        return io.NodeOutput(extraction.with_terms(model, found.terms), report, ui=ui.PreviewText(report))


NODES = [RLGExtractAdapter]
