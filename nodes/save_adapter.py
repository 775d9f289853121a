"""RLG Save Adapter: saves what an RL model adds to its base, as a file for stock LoRA loaders or for PEFT."""

from __future__ import annotations

from comfy_api.latest import io, ui

from .host.models import saving
from .host.schema import schema


class RLGSaveAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGSaveAdapter",
            display_name="RLG Save Adapter",
            description=(
                "Saves the adapter that turns model into rl_model (any LoRAs, at the strength set): as a LoRA that "
                "stock ComfyUI loads at true strength, or as a PEFT folder that diffusers and peft load."
            ),
            search_aliases=["save LoRA", "convert LoRA", "PEFT", "export", "diffusers"],
            inputs=[
                io.Model.Input("model", tooltip="The base model."),
                io.Model.Input(
                    "rl_model", tooltip="The same model with adapters on it (Load RL Adapter, LoRA loaders)."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="loras/rlg_adapter",
                    tooltip=(
                        "The file below the output folder. A number is appended, and no file is overwritten. Move it "
                        "to models/loras to load it."
                    ),
                ),
                io.Combo.Input(
                    "format",
                    options=list(saving.FORMATS),
                    default="comfyui",
                    tooltip=(
                        "comfyui: one .safetensors file for any LoRA loader. peft: a folder with "
                        "adapter_model.safetensors and adapter_config.json under diffusers' names; low-rank changes "
                        "only."
                    ),
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The new file or folder.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model, rl_model, filename_prefix: str, format: str) -> io.NodeOutput:
        path = str(saving.save_adapter(model, rl_model, filename_prefix, format))
        return io.NodeOutput(path, ui=ui.PreviewText(f"Saved {path}"))


NODES = [RLGSaveAdapter]
