"""Load RL Adapter: puts any LoRA-like file or PEFT folder on a model, whole and at its true strength."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..rlg_core.errors import RLGError, require_number, require_one_of
from ..rlg_core.formats import check_adapter, read_adapter
from .host.models import adapters, files, fingerprints
from .host.schema import schema

REFUSE, IGNORE = "refuse", "ignore"


class RLGAdapterLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGAdapterLoader",
            shows=True,
            display_name="Load RL Adapter",
            description=(
                "Puts an RL-tuned adapter on a model at the strength it was trained with: PEFT folders and files with "
                "their alpha, diffusers, kohya and LyCORIS files, on every architecture that the model loaders know. "
                "An adapter that cannot be loaded whole is an error, never a weaker model."
            ),
            search_aliases=["LoRA", "load LoRA", "PEFT", "LyCORIS", "LoKr", "DoRA", "Flow-GRPO", "DPO", "RL adapter"],
            advanced=["alpha", "adapter", "text_encoder"],
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
                    tooltip=(
                        "Scales the adapter: 1 is the adapter as trained, 0 the base model. Neutral: 1, which the "
                        "paper keeps. The guidance scale of RLG is set on Reinforcement Learning Guidance, not here."
                    ),
                ),
                io.Float.Input(
                    "alpha",
                    default=0.0,
                    min=0.0,
                    max=100000.0,
                    step=1.0,
                    tooltip=(
                        "Overrides the adapter's alpha; set it if the files do not give one. The change is scaled by "
                        "alpha / rank (Flow-GRPO trains rank 32 with alpha 64). Neutral: 0, alpha as the files say."
                    ),
                ),
                io.String.Input(
                    "adapter",
                    default="",
                    tooltip=(
                        "The adapter to load if a PEFT folder or file holds several (`old`), or `transformer_2` of a "
                        "Wan 2.2 file. Neutral: empty, the default adapter."
                    ),
                ),
                io.Combo.Input(
                    "text_encoder",
                    options=[REFUSE, IGNORE],
                    default=REFUSE,
                    optional=True,
                    tooltip=(
                        "What to do with keys for the text encoder, which a MODEL does not have. refuse: they are an "
                        "error (neutral). ignore: they are left out, and a stock LoRA loader can put them on the CLIP."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="rl_model",
                    tooltip=(
                        "The model with the adapter on it, for the rl_model input of Reinforcement Learning Guidance "
                        "or for any sampler."
                    ),
                ),
                io.String.Output(
                    display_name="report",
                    tooltip=(
                        "What was loaded: format, rank, alpha and where it came from, matched weights, and what the "
                        "stock loader would have done."
                    ),
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        lora_name: str | None = None,
        alpha: float | None = 0.0,
        adapter: str | None = "",
        text_encoder: str | None = REFUSE,
    ) -> bool | str:
        """Whether the file can be loaded, as far as its header and the configs beside it tell.

        Accepts whatever is in the folder now, with slashes of either kind, even if the page's list is older. Linked
        values are None here: what they will be is checked when the node runs.
        """
        try:
            if text_encoder is not None:
                require_one_of("text_encoder", text_encoder, (REFUSE, IGNORE))
            path = None if lora_name is None else files.adapter_path(lora_name)
            if path is not None and alpha is not None and adapter is not None:
                check_adapter(path, adapter, alpha, ignore_text_encoder=text_encoder != REFUSE)
        except RLGError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None = None, **_) -> str:
        return fingerprints.adapter_fingerprint(lora_name)

    @classmethod
    def execute(
        cls, model, lora_name: str, strength: float, alpha: float, adapter: str, text_encoder: str = REFUSE
    ) -> io.NodeOutput:
        require_number("strength", strength)
        require_one_of("text_encoder", text_encoder, (REFUSE, IGNORE))
        loaded = read_adapter(files.adapter_path(lora_name), adapter, alpha, text_encoder == IGNORE)
        rl_model, report = adapters.load(model, loaded, strength)
        return io.NodeOutput(rl_model, report, ui=ui.PreviewText(report))


NODES = [RLGAdapterLoader]
