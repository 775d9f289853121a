"""Load RL Adapter: any LoRA-like file or PEFT folder on a model, whole and at its true strength."""

from __future__ import annotations

from comfy_api.latest import io

from ..rlg_core.formats import read_adapter
from .host.models import adapters, files
from .host.schema import schema


class RLGAdapterLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGAdapterLoader",
            display_name="Load RL Adapter",
            description="Puts an RL-tuned adapter on a model at the strength it was trained with: PEFT folders and files with their "
            "alpha, diffusers, kohya and LyCORIS files, on every architecture the model loaders know. An adapter "
            "that cannot be loaded whole is an error, never a weaker model.",
            search_aliases=["lora", "peft", "flow-grpo", "dpo", "adapter", "rl"],
            inputs=[
                io.Model.Input("model", tooltip="The base model the adapter was trained on."),
                io.Combo.Input(
                    "lora_name", options=files.adapter_names(), tooltip="A file or a PEFT folder below models/loras."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Neutral: 1.0, the adapter as trained; 0 is the base model. The guidance scale of RLG is set "
                    "on Reinforcement Learning Guidance, not here (the paper keeps 1.0).",
                ),
                io.Float.Input(
                    "alpha",
                    default=0.0,
                    min=0.0,
                    max=100000.0,
                    step=1.0,
                    tooltip="Neutral: 0.0, alpha as the files say. Set it where they do not: the change is scaled by "
                    "alpha / rank (Flow-GRPO trains rank 32 with alpha 64).",
                ),
                io.String.Input(
                    "adapter",
                    default="",
                    tooltip="Neutral: empty, the default adapter. Name another one of a PEFT folder or file (`old`), or "
                    "`transformer_2` of a Wan 2.2 file. Add `ignore text encoder` (after a comma) to leave out "
                    "keys for the text encoder, which are refused otherwise.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="rl_model",
                    tooltip="The model with the adapter on it, for the rl_model input of "
                    "Reinforcement Learning Guidance or for any sampler.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="What was loaded: format, rank, alpha and where it came from, matched "
                    "weights, and what the stock loader would have done.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora_name: str) -> bool | str:
        """Accepts what is in the folder now, in either spelling of a path, also where the page's list is older."""
        try:
            files.adapter_path(lora_name)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, **_) -> str:
        return files.adapter_fingerprint(lora_name)

    @classmethod
    def execute(cls, model, lora_name: str, strength: float, alpha: float, adapter: str) -> io.NodeOutput:
        loaded = read_adapter(files.adapter_path(lora_name), adapter, alpha)
        return io.NodeOutput(*adapters.load(model, loaded, strength))


NODES = [RLGAdapterLoader]
