"""The dial at many scales: run the graph or a batch over them, and see how reward and diversity change."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..rlg_core.errors import RLGError, problem
from ..rlg_core.report.sweep import curves, sheet, table
from ..rlg_core.schedule import PerItem
from ..rlg_core.sweep import DEFAULT_SCALES, Sweep, listed, parse_scales
from .host.compat import require_one_tensor
from .host.schema import schema
from .types import ScheduleType

SCALES = (
    "Numbers with commas between: 0 is the base model, 1 the RL model, above 1 extrapolates. The paper uses 1 to 3."
)


class RLGSweep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGSweep",
            display_name="RLG Sweep",
            description=(
                "A list of scales for Reinforcement Learning Guidance. Everything after it runs once per scale."
            ),
            search_aliases=["XY plot", "grid", "scale list", "guidance scale"],
            inputs=[io.String.Input("scales", default=DEFAULT_SCALES, tooltip=SCALES)],
            outputs=[io.Float.Output(display_name="scale", is_output_list=True)],
        )

    @classmethod
    def validate_inputs(cls, scales: str | None = None) -> bool | str:
        """Whether these are scales. A linked or missing text is None here."""
        return scales is None or problem(parse_scales, scales)

    @classmethod
    def execute(cls, scales: str) -> io.NodeOutput:
        return io.NodeOutput(listed(parse_scales(scales)))


class RLGBatchSweep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGBatchSweep",
            display_name="RLG Batch Sweep",
            description=(
                "All scales in one sampling run: one latent item per scale, each with the same starting noise, and a "
                "schedule that gives each item its scale. Wire the schedule into Reinforcement Learning Guidance."
            ),
            search_aliases=["batch", "XY plot", "scale list", "guidance scale"],
            inputs=[
                io.Latent.Input(
                    "latent",
                    tooltip=(
                        "Repeated for every scale, scale by scale, with the same starting noise. Samplers that draw "
                        "fresh noise at each step (ancestral, SDE, LCM) draw different noise for each item: use a "
                        "deterministic one, such as euler."
                    ),
                ),
                io.String.Input("scales", default=DEFAULT_SCALES, tooltip=SCALES),
                ScheduleType.Input(
                    "schedule",
                    optional=True,
                    tooltip=(
                        "A shape for the run, which the scale of each item multiplies. Without it the scales are "
                        "constant."
                    ),
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latents"),
                ScheduleType.Output(display_name="scale_schedule", tooltip="For Reinforcement Learning Guidance."),
                io.Float.Output(display_name="scale", is_output_list=True, tooltip="For RLG Sweep Grid."),
            ],
        )

    @classmethod
    def validate_inputs(cls, scales: str | None = None) -> bool | str:
        """Whether these are scales. A linked or missing text is None here."""
        return scales is None or problem(parse_scales, scales)

    @classmethod
    def execute(cls, latent, scales: str, schedule=None) -> io.NodeOutput:
        values = parse_scales(scales)
        if isinstance(schedule, PerItem):
            raise RLGError(
                "schedule already has a scale for each item, from another RLG Batch Sweep: use one from RLG Schedule."
            )
        items = latent["samples"].shape[0]
        per_item = PerItem(tuple(value for value in values for _ in range(items)), schedule)
        return io.NodeOutput(repeated(latent, len(values)), per_item, values)


def repeated(latent: dict, times: int) -> dict:
    """`latent` with all its items repeated `times` times. Each repetition starts from the same noise as the first."""
    samples = latent["samples"]
    require_one_tensor(samples, "use RLG Sweep, which runs scale by scale.")
    items = samples.shape[0]
    out = latent | {
        "samples": torch.cat([samples] * times),
        "batch_index": list(latent.get("batch_index", range(items))) * times,
    }
    mask = latent.get("noise_mask")
    if mask is not None and len(mask) > 1 and (mask.ndim == samples.ndim or (mask.ndim, samples.ndim) == (3, 4)):
        # The host deals masks out in turn, over the whole batch: each repetition must begin with the first one again.
        # Flat masks of a video are its frames, the same for all items.
        out["noise_mask"] = torch.cat([mask[[k % len(mask) for k in range(items)]]] * times)
    return out


class RLGSweepGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGSweepGrid",
            shows=True,
            display_name="RLG Sweep Grid",
            description=(
                "A contact sheet of a sweep with the best scale marked, and plots of reward and diversity over the "
                "scale. Error bars are standard errors over the pictures of a scale; diversity is the mean distance "
                "between them."
            ),
            search_aliases=["grid", "contact sheet", "XY plot", "chart"],
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip=(
                        "The sweep's pictures, scale by scale, as RLG Sweep and RLG Batch Sweep make them. Several per "
                        "scale give error bars and diversity."
                    ),
                ),
                io.Float.Input("scales", force_input=True, tooltip="From RLG Sweep or RLG Batch Sweep."),
                io.Float.Input(
                    "scores",
                    force_input=True,
                    optional=True,
                    tooltip=(
                        "From RLG Reward: one per picture, or one per scale. Without them the plot shows diversity, or "
                        "the distance from the base."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(display_name="grid"),
                io.Image.Output(display_name="plot"),
                io.String.Output(
                    display_name="csv",
                    tooltip=(
                        "The columns: scale, pictures, reward, standard error, diversity, shift, structure diversity."
                    ),
                ),
            ],
        )

    @classmethod
    def execute(cls, images, scales, scores=None) -> io.NodeOutput:
        sweep = Sweep.of_lists(scales, images, scores or [])
        grid = sheet(sweep)[None]
        return io.NodeOutput(grid, curves(sweep)[None], table(sweep), ui=ui.PreviewImage(grid, cls=cls))


NODES = [RLGSweep, RLGBatchSweep, RLGSweepGrid]
