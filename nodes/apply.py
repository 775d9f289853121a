"""Reinforcement Learning Guidance, the dial itself (arXiv 2508.21016)."""

from __future__ import annotations

import logging

from comfy_api.latest import io, ui

from ..rlg_core.errors import problem, require_number
from ..rlg_core.schedule import Schedule, constant_in_window
from ..rlg_core.sweep import ListedScale
from .host.models.relation import relate
from .host.models.wiring import IDENTICAL, wiring_notice
from .host.run.attach import with_expert
from .host.run.record import Branch, Expert
from .host.schema import SCALE, schema
from .types import BranchType, ScheduleType

log = logging.getLogger(__name__)


class RLGApply(io.ComfyNode):
    """Guides `model` by its RL-tuned version: `prediction = base + scale * (rl - base)` at every step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGApply",
            shows=True,
            display_name="Reinforcement Learning Guidance",
            description=(
                "A dial for the alignment strength of an RL-tuned model (Flow-GRPO, DPO, ...) at sampling time. It "
                "samples from the geometric mean of the base and the RL model. Stack a second node for a second RL "
                "model."
            ),
            search_aliases=[
                "RLG",
                "RL guidance",
                "guidance scale",
                "LoRA",
                "LoRA strength",
                "Flow-GRPO",
                "DPO",
                "PEFT",
                "alignment strength",
                "reward",
            ],
            advanced=["start_percent", "end_percent", "outside_scale", "rescale", "max_ratio"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The base model, without the RL adapter. Patches and options on it count for both models. A "
                        "LoRA must be on both (load it before the RL adapter): on model alone it is subtracted at "
                        "scales above 1."
                    ),
                ),
                io.Model.Input(
                    "rl_model",
                    tooltip=(
                        "The RL-tuned version: from Load RL Adapter, from any LoRA loader fed with the same model, or "
                        "another checkpoint of the same architecture. Only its weights and its model sampling are "
                        "used."
                    ),
                ),
                io.Float.Input(
                    "scale",
                    default=1.5,
                    **SCALE,
                    tooltip=(
                        "0 is the base model, 1 the RL model, between them interpolates, above 1 extrapolates. "
                        "Neutral: 1. The paper uses 1 to 3. It acts like dividing the KL coefficient of the RL "
                        "training by it: exactly so for the densities only, nearly so along the sampling path between "
                        "0 and 1; above 1 the direction is right and the dose too large."
                    ),
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip=(
                        "The point in the schedule at which the scale begins to apply; before it, outside_scale "
                        "applies. Neutral: 0."
                    ),
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip=(
                        "The point in the schedule at which the scale stops applying; after it, outside_scale applies. "
                        "Neutral: 1."
                    ),
                ),
                io.Float.Input(
                    "outside_scale",
                    default=1.0,
                    **SCALE,
                    tooltip=(
                        "The scale outside the window, and where a mask is 0: 1 is the RL model, 0 the base. Without "
                        "effect if the window is 0 to 1 and there is no mask. Neutral: 1."
                    ),
                ),
                io.Float.Input(
                    "rescale",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "Moves the contrast of the result back towards the RL model's, against over-saturation at high "
                        "scales. Neutral: 0."
                    ),
                ),
                ScheduleType.Input("schedule", optional=True, tooltip="From RLG Schedule: replaces scale and window."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "Where the scale applies: fully where the mask is 1, not at all where it is 0 (outside_scale "
                        "applies there), with soft edges between. Any size; one mask for all images, or one for each "
                        "image or frame."
                    ),
                ),
                BranchType.Input(
                    "branch", optional=True, tooltip="From RLG Branch: how the RL model guides the two prompts."
                ),
                io.Float.Input(
                    "max_ratio",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    optional=True,
                    tooltip=(
                        "The most that guidance may add to a prediction, relative to the base's velocity, per image. "
                        "Against broken pictures at high scales. Neutral: 0, no bound."
                    ),
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def validate_inputs(
        cls, start_percent: float | None = None, end_percent: float | None = None, schedule="none"
    ) -> bool | str:
        """Whether the window starts before it ends, where no schedule replaces it. Linked or missing values: None."""
        if None in (start_percent, end_percent, schedule):
            return True
        return problem(Schedule, start_percent=start_percent, end_percent=end_percent)

    @classmethod
    def execute(
        cls,
        model,
        rl_model,
        scale,
        start_percent,
        end_percent,
        outside_scale,
        rescale,
        schedule=None,
        mask=None,
        branch=None,
        max_ratio=0.0,
    ) -> io.NodeOutput:
        for name, value in (("scale", scale), ("outside_scale", outside_scale)):
            require_number(name, value)
        require_number("rescale", rescale, 0.0, 1.0)
        schedule = schedule or constant_in_window(scale, start_percent, end_percent, outside_scale)
        relation = relate(model, rl_model)
        said = IDENTICAL if relation is None else wiring_notice(model, rl_model)
        if said is not None:
            log.warning("RLG: %s", said)
        shown = ui.PreviewText(said or "")  # an empty one takes away what the node said before
        if relation is None:
            return io.NodeOutput(model, ui=shown)
        listed = scale if isinstance(scale, ListedScale) else None
        expert = Expert(relation, schedule, outside_scale, mask, branch or Branch(), max_ratio, listed)
        return io.NodeOutput(with_expert(model, expert, rescale), ui=shown)


NODES = [RLGApply]
