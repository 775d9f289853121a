"""RLG Extract Adapter: makes a LoRA of the difference of two models, so that one copy of the weights is enough.

RLG Extract Adapter From Files does so without loading either.
"""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..rlg_core.errors import require_number, require_whole
from .host.models import extraction, files, fingerprints
from .host.models.checkpoint_pair import extract_from_files
from .host.schema import schema


def _how() -> list[io.Input]:
    """The inputs that say how to decompose and where to save."""
    return [
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
                "Below 1, each layer gets the smallest rank, up to rank, that keeps this share of its difference (of "
                "the squared norm). Neutral: 1, the rank alone decides."
            ),
        ),
        io.String.Input(
            "filename_prefix",
            default="loras/rlg_extracted",
            tooltip=(
                "The file below the output folder. A number is appended, and no file is overwritten. Move it to "
                "models/loras to load it."
            ),
        ),
    ]


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
            search_aliases=["extract LoRA", "SVD", "low rank", "compress", "PEFT"],
            advanced=["energy"],
            inputs=[
                io.Model.Input("model", tooltip="The base model."),
                io.Model.Input("rl_model", tooltip="The RL-tuned version of it. Patches on it count."),
                *_how(),
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


class RLGExtractFromFiles(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        names = files.model_names()
        return schema(
            node_id="RLGExtractFromFiles",
            display_name="RLG Extract Adapter From Files",
            description=(
                "Makes a LoRA of what an RL-tuned checkpoint changes in its base, and saves it, without loading "
                "either: both files are read weight by weight. For models of which two do not fit into memory."
            ),
            search_aliases=["extract LoRA", "SVD", "low rank", "compress", "checkpoint difference", "PEFT"],
            advanced=["energy"],
            inputs=[
                io.Combo.Input(
                    "base_name",
                    options=names,
                    tooltip="The base model: a .safetensors file below models/checkpoints or models/diffusion_models.",
                ),
                io.Combo.Input(
                    "rl_name",
                    options=names,
                    tooltip=(
                        "The RL-tuned version of the base, of the same architecture. The two may differ in layout "
                        "(diffusers or original) and precision."
                    ),
                ),
                *_how(),
            ],
            outputs=[
                io.String.Output(
                    display_name="lora_name",
                    tooltip=(
                        "The new file's name for the lora_name input of Load RL Adapter, if filename_prefix begins "
                        "with loras/; else its path."
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
    def validate_inputs(cls, base_name: str | None = None, rl_name: str | None = None) -> bool | str:
        """As Load RLG Checkpoint Pair does."""
        return files.refusal(base_name, rl_name) or True

    @classmethod
    def fingerprint_inputs(cls, base_name: str | None = None, rl_name: str | None = None, **_) -> str:
        return fingerprints.model_fingerprint(base_name, rl_name)

    @classmethod
    def execute(cls, base_name: str, rl_name: str, rank: int, energy: float, filename_prefix: str) -> io.NodeOutput:
        require_whole("rank", rank, 1)
        require_number("energy", energy, 0.0, 1.0)
        base, rl = files.model_path(base_name), files.model_path(rl_name)
        found, report = extract_from_files(base, rl, rank, energy)
        path = extraction.save(found, filename_prefix)
        report = f"Saved {path}\n{report}"
        return io.NodeOutput(files.name_of_adapter(path), report, ui=ui.PreviewText(report))


NODES = [RLGExtractAdapter, RLGExtractFromFiles]
