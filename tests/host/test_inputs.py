"""Any scale, window, mask, batch and size, against the formula computed step by step from two plain models.

Few examples, always the same; `HYPOTHESIS_EXAMPLES=500` draws more.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from support import tiny
from support.guiding import fresh, guide, run_node
from support.sampling import Sampling, conditioning, wan_sampling
from support.tensors import largest, random, rms

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "0"))
CLOSE = 3e-4
"""What rounding may leave of a difference, relative to the latents and to how far the scale extrapolates."""


def drawn(examples: int):
    """Settings of a property: the same examples in every run, however slow the machine is."""
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def pair(host):
    """A base, its RL version on the same weights, and that again with weights of its own."""
    return *tiny.sd3_pair(host), tiny.sd3_pair(host)[1]


@pytest.fixture(scope="module")
def video_pair(host):
    weights = tiny.wan_weights(host)
    change = {"diffusion_model.head.head.weight": ("diff", (random(64, 256, size=0.01),))}
    models = [tiny.load_weights(host, weights) for _ in range(2)]
    clones = [model.clone() for model in models]
    for clone in clones:
        clone.add_patches(change)
    return models[0], *clones


def by_formula(host: Any, model: Any, rl_copy: Any, weight: Any) -> Any:
    """`model` with each call answered by `base + w (rl - base)`, with `w` from the call's sigma and latents."""

    def combine(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds):
        base = executor(x, t, c_concat, c_crossattn, fresh(control), transformer_options, **conds)
        run = type(executor).new_class_executor(
            rl_copy.model._apply_model, rl_copy.model, executor.wrappers, executor.idx
        )
        rl = run(x, t, c_concat, c_crossattn, fresh(control), transformer_options, **conds)
        return base + weight(float(t.flatten()[0]), x) * (rl - base)

    clone = model.clone()
    clone.add_wrapper_with_key(host.comfy.patcher_extension.WrappersMP.APPLY_MODEL, "reference", combine)
    clone.set_additional_models("reference", [rl_copy])
    return clone


def percent_at(sampling: Any, sigma: float) -> float:
    """The percent of the schedule at a sigma."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if float(sampling.percent_to_sigma(middle)) > sigma else (low, middle)
    return low


SCALES = st.one_of(st.sampled_from([0.0, 1.0, 1e-30, -1.0, 1000.0]), st.floats(-10, 20, allow_subnormal=False))
PERCENTS = st.one_of(st.floats(0, 1), st.integers(0, 8))
"""A percent, or the number of a step whose sigma it is to be."""

CASES = st.fixed_dictionaries(
    {
        "scale": SCALES,
        "outside": st.sampled_from([0.0, 1.0, 0.3]),
        "window": st.tuples(PERCENTS, PERCENTS),
        "steps": st.integers(1, 8),
        "batch": st.integers(1, 3),
        "size": st.tuples(st.integers(1, 9), st.integers(1, 9)),
        "mask": st.none() | st.tuples(st.sampled_from([1, 1, 2, 3]), st.integers(1, 40), st.integers(1, 40)),
        "negative": st.booleans(),
        "cfg": st.sampled_from([1.0, 4.0]),
    }
)


def percent(value: float | int, sigmas: list[float], sampling: Any) -> float:
    return percent_at(sampling, sigmas[min(value, len(sigmas) - 1)]) if isinstance(value, int) else value


def masked(mask: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """A mask at the latent's size, as the host scales masks."""
    return functional.interpolate(mask[:, None], size=size, mode="bilinear", align_corners=False).clamp(0, 1)


@drawn(40)
@given(case=CASES)
def test_any_setting_is_the_formula(host, pair, case):
    model, rl_model, rl_copy = pair
    sampling = model.get_model_object("model_sampling")
    empty = [] if case["negative"] else conditioning(12)
    run = Sampling(steps=case["steps"], cfg=case["cfg"], shape=(case["batch"], 16, *case["size"]), negative=empty)
    sigmas = [float(sigma) for sigma in run.sigmas(host, model)]
    start, end = (percent(value, sigmas, sampling) for value in case["window"])
    mask = None if case["mask"] is None else random(*case["mask"], size=0.4).add(0.5)

    def guided():
        return guide(
            host,
            model,
            rl_model,
            case["scale"],
            start,
            end,
            case["outside"],
            **({} if mask is None else {"mask": mask}),
        )

    error = host.module("rlg_core.errors").RLGError
    if start > end:
        with pytest.raises(error, match="at most end_percent"):
            guided()
        return

    def weight(sigma, x):
        inside = start - 1e-5 <= percent_at(sampling, sigma) <= end + 1e-5
        scale = case["scale"] if inside else case["outside"]
        if mask is None:
            return scale
        rows = masked(mask, case["size"])
        rows = rows.expand(case["batch"], -1, -1, -1).repeat(len(x) // case["batch"], 1, 1, 1)
        return case["outside"] + rows * (scale - case["outside"])

    if mask is not None and len(mask) not in (1, case["batch"]):
        with pytest.raises(error, match="masks for"):
            run.run(host, guided())
        return
    found, expected = run.run(host, guided()), run.run(host, by_formula(host, model, rl_copy, weight))
    assert largest(found, expected) <= CLOSE * max(1.0, rms(expected)) * max(1.0, abs(case["scale"]))


@drawn(10)
@given(
    frames=st.integers(1, 3),
    batch=st.integers(1, 2),
    size=st.tuples(st.integers(2, 7), st.integers(2, 7)),
    scale=SCALES.filter(lambda scale: abs(scale) < 100),
    masks=st.none() | st.integers(1, 4),
)
def test_latents_with_frames(host, video_pair, frames, batch, size, scale, masks):
    """5-D latents: masks are pictures' where there is one frame, else the frames of one video."""
    model, rl_model, rl_copy = video_pair
    run = wan_sampling(shape=(batch, 16, frames, *size), steps=1)
    uniform = None if masks is None else torch.full((masks, 5, 6), 0.5)
    guided = guide(host, model, rl_model, scale, outside_scale=0.0, **({} if masks is None else {"mask": uniform}))
    if masks is not None and frames == 1 and masks not in (1, batch):
        with pytest.raises(host.module("rlg_core.errors").RLGError, match="masks for"):
            run.run(host, guided)
        return
    share = 1.0 if masks is None else 0.5
    expected = run.run(host, by_formula(host, model, rl_copy, lambda sigma, x: share * scale))
    found = run.run(host, guided)
    assert largest(found, expected) <= CLOSE * max(1.0, rms(expected)) * max(1.0, abs(scale))


TEXT = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="0123456789.,;-+eE \n\t_nainf", max_size=40),
    st.sampled_from(["\u0661\u0662", "1" * 100_000, "\u202e1", "1,,2", "0x10", "1e5", "\0", "\ud800", "\uff11"]),
)


@drawn(300)
@given(text=TEXT)
def test_any_text_is_scales_or_refused(host, text):
    errors = host.module("rlg_core.errors")
    try:
        scales = run_node(host, "RLGSweep", text)[0]
    except errors.RLGError as error:
        assert len(str(error)) < 400
        return
    assert 0 < len(scales) <= 1000 and all(abs(scale) <= errors.LARGEST for scale in scales)


@drawn(100)
@given(name=TEXT | st.sampled_from(["../x", "/etc/passwd", "C:\\x", "a/../../x", "..", ".", "~", "con", "a" * 5000]))
def test_any_name_is_found_below_the_folders_or_refused(host, name):
    files, error = host.module("nodes.host.models.files"), host.module("rlg_core.errors").RLGError
    for find in (files.adapter_path, files.model_path, files.reward_folder):
        try:
            path = find(name)
        except error as refused:
            assert len(str(refused)) < 1000
        else:
            assert path.exists()
    for cls, names in (
        ("RLGAdapterLoader", ["lora_name"]),
        ("RLGCheckpointPairLoader", ["base_name", "rl_name"]),
        ("RLGRewardLoader", ["folder"]),
    ):
        assert host.classes[cls].validate_inputs(**dict.fromkeys(names, name)) is not None
        assert isinstance(host.classes[cls].fingerprint_inputs(**dict.fromkeys(names, name)), str)
