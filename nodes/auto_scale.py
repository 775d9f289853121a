"""RLG Auto Scale: finds the scale with the highest reward for one prompt or several."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..rlg_core.errors import RLGError, require_whole
from ..rlg_core.report.plot import number, plot
from ..rlg_core.report.search import panels
from ..rlg_core.search import STAGES, Bounds, Search, search
from .host.schema import schema
from .host.scores.auto_scale import SAMPLERS, SCHEDULERS, Case, Judge, Sampling
from .types import RewardType, ScheduleType

SCALE = {"min": -10.0, "max": 20.0, "step": 0.01, "round": 0.001}


class RLGAutoScale(io.ComfyNode):
    """Maximises a reward over the scale, as DeRa (arXiv 2402.02992) finds the KL coefficient of a language model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGAutoScale",
            shows=True,
            display_name="RLG Auto Scale",
            description=(
                "Finds the scale with the highest reward. It samples at a few scales, always from the same noise, and "
                "refines around the best one. Several prompts (lists of conditionings and texts) are judged together. "
                "It makes up to evaluations x images_per_scale x prompts pictures, and those of the base if scale_min "
                "is not 0."
            ),
            search_aliases=["find scale", "guidance scale", "tune guidance", "optimise reward", "search"],
            advanced=["max_shift", "by_stage"],
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The base model."),
                io.Model.Input("rl_model", tooltip="The RL-tuned version, as for Reinforcement Learning Guidance."),
                io.Conditioning.Input("positive", tooltip="The prompt, or a list of prompts to judge together."),
                io.Conditioning.Input("negative", tooltip="The negative prompt: one for all prompts, or one for each."),
                io.Latent.Input("latent", tooltip="Sets the size of the pictures."),
                io.Vae.Input("vae", tooltip="Decodes the pictures that are scored."),
                RewardType.Input("reward", tooltip="From Load RLG Reward."),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="The prompt as text, for the reward: one for all prompts, or one for each.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip=(
                        "Seeds the noise that all scales share. Another seed gives another estimate of the best scale."
                    ),
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=10000, tooltip="Sampling steps per picture. The paper uses 20."
                ),
                io.Float.Input(
                    "cfg",
                    default=4.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="The CFG scale of the sampler. The paper uses 4.5 for SD3.5.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=SAMPLERS,
                    default="euler",
                    tooltip="The sampler. A deterministic one, such as euler, tells scales apart with fewer pictures.",
                ),
                io.Combo.Input(
                    "scheduler", options=SCHEDULERS, default="simple", tooltip="The noise schedule of the sampler."
                ),
                io.Float.Input(
                    "scale_min", default=0.0, **SCALE, tooltip="The lowest scale to try: 0 is the base model."
                ),
                io.Float.Input(
                    "scale_max", default=4.0, **SCALE, tooltip="The highest scale to try. The paper uses up to 3."
                ),
                io.Int.Input(
                    "evaluations",
                    default=8,
                    min=2,
                    max=100,
                    tooltip=(
                        "How many scales to try: half of them evenly spaced, half around the best. 6 to 12 are enough "
                        "for a single peak."
                    ),
                ),
                io.Int.Input(
                    "images_per_scale",
                    default=4,
                    min=1,
                    max=256,
                    tooltip=(
                        "Pictures per scale and prompt, from different noise. More of them make the choice more "
                        "certain."
                    ),
                ),
                io.Float.Input(
                    "max_shift",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.005,
                    round=0.0001,
                    tooltip=(
                        "How far the pictures may move from the base's on average: root mean square difference at 64 "
                        "pixels per side, 0 for the same picture, 1 for black to white. Try 0.1 to 0.25. Neutral: 0, "
                        "no limit."
                    ),
                ),
                io.Boolean.Input(
                    "by_stage",
                    default=False,
                    tooltip=(
                        "Then also finds a scale for the early, the middle and the late third of the run, which takes "
                        "another 1.5 times the evaluations. Use schedule instead of scale. Neutral: off."
                    ),
                ),
            ],
            outputs=[
                io.Float.Output(display_name="scale", tooltip="The best scale; with by_stage the mean of the three."),
                ScheduleType.Output(
                    display_name="schedule", tooltip="For Reinforcement Learning Guidance; constant without by_stage."
                ),
                io.Image.Output(display_name="plot"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        rl_model,
        positive,
        negative,
        latent,
        vae,
        reward,
        prompt,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        scale_min,
        scale_max,
        evaluations,
        images_per_scale,
        max_shift,
        by_stage,
    ) -> io.NodeOutput:
        bounds = Bounds(scale_min[0], scale_max[0], max_shift[0])
        sampling = Sampling(seed[0], steps[0], cfg[0], sampler_name[0], scheduler[0], images_per_scale[0])
        require_whole("evaluations", evaluations[0], 1)
        planned = evaluations[0] + (len(STAGES) * max(4, evaluations[0] // 2) if by_stage[0] else 0)
        prompts = cases(positive, negative, prompt)
        judge = Judge(model[0], rl_model[0], vae[0], latent[0], prompts, sampling, reward[0], planned)
        found = search(judge, bounds, evaluations[0], by_stage[0])
        best, picture = found.best(), plot(panels(found))[None]
        scale = sum(best.stages.scales) / len(best.stages.scales)
        shown = ui.PreviewImage(picture, cls=cls)
        return io.NodeOutput(scale, best.stages, picture, report(found, reward[0].name), ui=shown)


def cases(positive: list, negative: list, prompts: list[str]) -> list[Case]:
    """One case per prompt; a single negative prompt or text serves all. Raises `RLGError` for other numbers of them."""
    for name, given in (("negative", negative), ("prompt", prompts)):
        if len(given) not in (1, len(positive)):
            count = len(positive)
            raise RLGError(f"{name} has {len(given)} entries for {count} positive prompts: expected 1 or {count}.")
    return [Case(p, negative[k % len(negative)], prompts[k % len(prompts)]) for k, p in enumerate(positive)]


def report(found: Search, reward: str) -> str:
    """What was chosen, how certain that is, and all trials."""
    best, least = found.best(), found.smallest_as_good()
    lines = [f"{reward}: {_described(best)}"]
    if least is not best:
        lines.append(f"The smallest scale within one standard error of it is {number(least.scale)}.")
    if best.is_constant and best.scale in (found.bounds.low, found.bounds.high):
        lines.append("The best scale is at an end of the range: a wider range may hold a better one.")
    lines += ["", "scale\treward\tstandard error\tshift\tdiversity"]
    for trial in sorted(found.trials.values(), key=lambda trial: trial.stages.scales):
        beyond = "" if found.bounds.allows(trial) else "\tbeyond max_shift"
        values = (trial.reward, trial.error, trial.shift, trial.diversity)
        lines.append("\t".join([_scales(trial), *map(number, values)]) + beyond)
    return "\n".join(lines)


def _scales(trial) -> str:
    return number(trial.scale) if trial.is_constant else " / ".join(map(number, trial.stages.scales))


def _described(best) -> str:
    where = (
        f"best at scale {number(best.scale)}"
        if best.is_constant
        else "best at scales " + ", ".join(f"{name} {number(scale)}" for name, scale in zip(STAGES, best.stages.scales))
    )
    return (
        f"{where}, reward {number(best.reward)} +- {number(best.error)}, "
        f"shift {number(best.shift)}, diversity {number(best.diversity)}."
    )


NODES = [RLGAutoScale]
