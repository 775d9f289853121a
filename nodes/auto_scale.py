"""RLG Auto Scale: finds the scale with the highest reward for one prompt or several."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..rlg_core.errors import RLGError, require_whole
from ..rlg_core.report.plot import number, plot
from ..rlg_core.report.search import panels
from ..rlg_core.search import CONSTANT, STAGES, Choice, Search, search
from ..rlg_core.trials import Bounds
from .host.schema import SCALE, schema
from .host.scores.auto_scale import SAMPLERS, SCHEDULERS, Case, Judge, Sampling
from .types import RewardType, ScheduleType


class RLGAutoScale(io.ComfyNode):
    """Maximises a reward over the scale, as DeRa (arXiv 2402.02992) finds the KL coefficient of a language model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RLGAutoScale",
            shows=True,
            display_name="RLG Auto Scale",
            description=(
                "Finds the scale with the highest reward. It samples at five even scales from the same noise, then "
                "again around the best from fresh noise, and fits a curve. The scale found is tried beside the base on "
                "noise of its own. Several prompts (lists of conditionings and texts) are judged together. It makes "
                "about (evaluations + 2) x images_per_scale x prompts pictures."
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
                        "Seeds the noise: each picture has its own, which all scales share. Another seed gives another "
                        "estimate of the best scale."
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
                        "How many trials: five evenly spaced scales, the others around the best from fresh noise. 8 to "
                        "14 are enough for a single peak."
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
                        "pixels per side, 0 for the same picture, 1 for black to white. It bounds the upper confidence "
                        "limit (95 %). Try 0.1 to 0.25. Neutral: 0, no limit."
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
                io.Float.Output(
                    display_name="scale",
                    tooltip="The smallest scale as good as the best; with by_stage the mean of the three.",
                ),
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
        stages = len(STAGES) * max(4, evaluations[0] // 2) if by_stage[0] else 0
        planned = evaluations[0] + stages + 2 + (scale_min[0] != 0)
        prompts = cases(positive, negative, prompt)
        judge = Judge(model[0], rl_model[0], vae[0], latent[0], prompts, sampling, reward[0], planned)
        found = search(judge, bounds, evaluations[0], by_stage[0])
        chosen, picture = found.choice.stages, plot(panels(found))[None]
        scale = sum(chosen.scales) / len(chosen.scales)
        shown = ui.PreviewImage(picture, cls=cls)
        return io.NodeOutput(scale, chosen, picture, report(found, reward[0].name), ui=shown)


def cases(positive: list, negative: list, prompts: list[str]) -> list[Case]:
    """One case per prompt; a single negative prompt or text serves all. Raises `RLGError` for other numbers of them."""
    for name, given in (("negative", negative), ("prompt", prompts)):
        if len(given) not in (1, len(positive)):
            count = len(positive)
            raise RLGError(f"{name} has {len(given)} entries for {count} positive prompts: expected 1 or {count}.")
    return [Case(p, negative[k % len(negative)], prompts[k % len(prompts)]) for k, p in enumerate(positive)]


def report(found: Search, reward: str) -> str:
    """What was chosen, how it does on fresh noise, how certain both are, and all trials."""
    choice, line = found.choice, found.lines[CONSTANT]
    lines = [f"{reward}: {_described(choice)}", _gain(choice)]
    peak = choice.peaks[CONSTANT]
    if len(choice.trial.scores) > 1:
        lines.append(
            f"The fit is highest at scale {number(peak.best)} (95 %, for these prompts: {number(peak.low)} "
            f"to {number(peak.high)}); the smallest scale within one standard error of that is {number(peak.smallest)}."
        )
    if peak.best == found.bounds.high:
        lines.append("The best scale is at the upper end of the range: a wider range may hold a better one.")
    lines += ["", "scale\treward\tstandard error\tshift\tdiversity\tstructure\tnoise"]
    for trial in sorted(found.trials.values(), key=lambda trial: (trial.noise, trial.stages.scales)):
        beyond = "" if found.allows(trial.stages) else "\tbeyond max_shift"
        values = (trial.reward, trial.error, trial.shift, trial.diversity, trial.structure)
        lines.append("\t".join([_scales(trial), *map(number, values), str(trial.noise)]) + beyond)
    if found.bounds.max_shift:
        limits = ", ".join(f"{number(s)}: {number(found.upper_shift(t.stages))}" for s, t in line.trials if t.shifts)
        lines.append(f"Upper limits of the shift (95 %), which max_shift bounds: {limits}.")
    return "\n".join(lines)


def _scales(trial) -> str:
    return number(trial.scale) if trial.is_constant else " / ".join(map(number, trial.stages.scales))


def _described(choice: Choice) -> str:
    scales = choice.stages.scales
    if len(set(scales)) == 1:
        return f"scale {number(scales[0])}."
    return "scales " + ", ".join(f"{name} {number(scale)}" for name, scale in zip(STAGES, scales)) + "."


def _gain(choice: Choice) -> str:
    """Picture by picture, from noise that had no part in the choice."""
    trial, gain = choice.trial, choice.gain
    sure = f" +- {number(gain.half)} (95 %, for these prompts)" if gain.half == gain.half else " (one picture)"
    return (
        f"On fresh noise: reward {number(trial.reward)}, over the base's {gain.mean:+.4g}{sure}; shift "
        f"{number(trial.shift)}, diversity {number(trial.diversity)}."
    )


NODES = [RLGAutoScale]
