"""Nodes that steer the dial: schedules, the KL rule of thumb, and prompt branches (arXiv 2508.21016)."""

from __future__ import annotations

from dataclasses import asdict

from comfy_api.latest import io, ui

from ..rlg_core.errors import problem
from ..rlg_core.report.plot import Curve, Panel, plot
from ..rlg_core.schedule import CUSTOM, PRESETS, PROGRESS, PerItem, ScaleSchedule, scale_from_kl, schedule_of
from .host.run.record import Branch
from .host.schema import SCALE, schema
from .types import BranchType, ScheduleType

PERCENT = {"min": 0.0, "max": 1.0, "step": 0.001}
CURVE_POINTS = 201


def curve_picture(schedule: ScaleSchedule):
    """A plot of the schedule from noise (0) to picture (1): [1, height, width, 3]."""
    percents = [k / (CURVE_POINTS - 1) for k in range(CURVE_POINTS)]
    if isinstance(schedule, PerItem):
        rows = [schedule.scale_at(p).tolist() for p in percents]
        curves = [Curve(percents, list(column), f"item {k}", dots=False) for k, column in enumerate(zip(*rows))]
    else:
        curves = [Curve(percents, [schedule.scale_at(p) for p in percents], dots=False)]
    return plot([Panel(curves, "scale over the schedule", "percent of the schedule", "scale")], 480, 260)[None]


class RLGSchedule(io.ComfyNode):
    """A scale that changes over the run, as limited-interval guidance (arXiv 2404.07724) does for CFG."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGSchedule",
            shows=True,
            display_name="RLG Schedule",
            description=(
                "A scale that changes on the way from noise to picture. Choose a preset, or set the curve yourself. It "
                "is drawn on the node once it has run."
            ),
            search_aliases=[
                "guidance schedule",
                "scale schedule",
                "guidance scale",
                "limited interval",
                "LoRA schedule",
                "MixGRPO",
            ],
            advanced=["power"],
            script={"preset": {"rlg_replaces": {name: asdict(preset) for name, preset in PRESETS.items()}}},
            inputs=[
                io.Combo.Input(
                    "shape",
                    options=list(PROGRESS),
                    default="constant",
                    tooltip=(
                        "The path from scale_from to scale_to between start and end. constant: scale_from throughout "
                        "(neutral). interval: scale_from between start and end, scale_to outside."
                    ),
                ),
                io.Float.Input(
                    "scale_from",
                    default=1.5,
                    **SCALE,
                    tooltip=(
                        "The scale at the start: 0 is the base model, 1 the RL model. Neutral: 1. The paper uses 1 to "
                        "3."
                    ),
                ),
                io.Float.Input(
                    "scale_to",
                    default=1.0,
                    **SCALE,
                    tooltip="The scale at the end; for interval, the scale outside the window. Neutral: 1.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    **PERCENT,
                    tooltip="Where in the schedule the path begins. Neutral: 0.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, **PERCENT, tooltip="Where in the schedule the path ends. Neutral: 1."
                ),
                io.Float.Input(
                    "power",
                    default=1.0,
                    min=0.1,
                    max=10.0,
                    step=0.1,
                    tooltip=(
                        "For the shape power: above 1 the scale changes late, below 1 early. Neutral: 1, a straight "
                        "line."
                    ),
                ),
                io.Combo.Input(
                    "preset",
                    options=[CUSTOM, *PRESETS],
                    default=CUSTOM,
                    optional=True,
                    tooltip=(
                        "A schedule in use, which replaces all other inputs of this node. paper: 1.6 throughout. first "
                        "steps RL only: 1 for the first 10 %, then 1.6. RL early, base late (MixGRPO): 1 up to 60 %, "
                        "then 0. limited interval: 2.5 from 20 to 70 %, else 1. Neutral: custom, the inputs above."
                    ),
                ),
            ],
            outputs=[ScheduleType.Output(display_name="schedule")],
        )

    @classmethod
    def validate_inputs(
        cls, start_percent: float | None = None, end_percent: float | None = None, preset: str | None = CUSTOM
    ) -> bool | str:
        """Whether the path starts before it ends, where no preset replaces it. Linked values are None here."""
        if None in (start_percent, end_percent, preset):
            return True
        return problem(schedule_of, preset, start_percent=start_percent, end_percent=end_percent)

    @classmethod
    def execute(cls, shape, scale_from, scale_to, start_percent, end_percent, power, preset=CUSTOM) -> io.NodeOutput:
        schedule = schedule_of(preset, shape, scale_from, scale_to, start_percent, end_percent, power)
        return io.NodeOutput(schedule, ui=ui.PreviewImage(curve_picture(schedule), cls=cls))


class RLGScaleFromKL(io.ComfyNode):
    """The scale that stands for training with another KL coefficient: `w = trained_beta / target_beta`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGScaleFromKL",
            display_name="RLG Scale from KL",
            description=(
                "The scale that aims at what training with another KL coefficient would aim at: trained_beta / "
                "target_beta. Exact for the densities only. Along the sampling path it is nearly exact between 0 and "
                "1; above 1 it has the right direction and too large a dose. Ratios of beta hold within one training "
                "recipe only."
            ),
            search_aliases=["KL coefficient", "beta", "guidance scale", "KL penalty"],
            inputs=[
                io.Float.Input(
                    "trained_beta",
                    default=0.04,
                    min=1e-6,
                    max=100.0,
                    step=0.0001,
                    round=1e-6,
                    tooltip=(
                        "The KL coefficient that the RL model was trained with. Flow-GRPO: 0.04 for GenEval and text, "
                        "0.01 for PickScore."
                    ),
                ),
                io.Float.Input(
                    "target_beta",
                    default=0.04,
                    min=1e-6,
                    max=100.0,
                    step=0.0001,
                    round=1e-6,
                    tooltip=(
                        "The KL coefficient you wish it had been trained with: half of trained_beta doubles the scale. "
                        "Neutral: trained_beta."
                    ),
                ),
            ],
            outputs=[io.Float.Output(display_name="scale")],
        )

    @classmethod
    def execute(cls, trained_beta, target_beta) -> io.NodeOutput:
        return io.NodeOutput(scale_from_kl(trained_beta, target_beta))


class RLGBranch(io.ComfyNode):
    """How the RL model and classifier-free guidance work together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGBranch",
            display_name="RLG Branch",
            description=(
                "How the RL model and CFG work together. rl_cfg is for RL models tuned without CFG; positive_scale 0 "
                "with negative_scale 1 guides the negative prompt only, as Diffusion-NPO does with an anti-preference "
                "model."
            ),
            search_aliases=["CFG", "negative prompt", "Diffusion-NPO", "DiffusionNFT", "guidance scale"],
            inputs=[
                io.Float.Input(
                    "rl_cfg",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip=(
                        "A CFG scale for the RL model alone; 1 skips its negative pass (DiffusionNFT). Neutral: 0, the "
                        "sampler's CFG."
                    ),
                ),
                io.Float.Input(
                    "positive_scale",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Multiplies the scale on the positive prompt. Neutral: 1.",
                ),
                io.Float.Input(
                    "negative_scale",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Multiplies the scale on the negative prompt. Neutral: 1.",
                ),
            ],
            outputs=[BranchType.Output(display_name="branch")],
        )

    @classmethod
    def execute(cls, rl_cfg, positive_scale, negative_scale) -> io.NodeOutput:
        return io.NodeOutput(Branch(rl_cfg, positive_scale, negative_scale))


NODES = [RLGSchedule, RLGScaleFromKL, RLGBranch]
