"""RLG Auto Scale on a tiny model: it judges scales as the graph would, and finds what a full sweep finds."""

from __future__ import annotations

import pytest
import torch

from support import tiny
from support.guiding import guide, run_node
from support.sampling import conditioning

SETTINGS = {"steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}


@pytest.fixture(scope="module")
def scene(host):
    """model, rl_model, VAE: a tiny SD3 pair and a TAESD of random weights."""
    from comfy.taesd.taesd import TAESD

    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(value.shape, generator=generator) * (0.5 / max(value[0].numel(), 1)) ** 0.5
        if value.ndim
        else value
        for name, value in TAESD(latent_channels=16).state_dict().items()
    }
    return *tiny.sd3_pair(host), host.comfy.sd.VAE(sd=weights)


@torch.inference_mode()
def find(host, scene, lists=(), **changes):
    """The node's outputs; every input is a list, as the host hands them to a node that takes lists."""
    model, rl_model, vae = scene
    inputs = {
        "model": model,
        "rl_model": rl_model,
        "positive": conditioning(11),
        "negative": conditioning(12),
        "latent": {"samples": torch.zeros(1, 16, 8, 8)},
        "vae": vae,
        "reward": jpeg(host),
        "prompt": "",
        "seed": 5,
        **SETTINGS,
        "scale_min": 0.0,
        "scale_max": 4.0,
        "evaluations": 6,
        "images_per_scale": 2,
        "max_shift": 0.0,
        "by_stage": False,
    }
    lists = {name: value if name in lists else [value] for name, value in (inputs | changes).items()}
    return run_node(host, "RLGAutoScale", **lists)


def jpeg(host):
    return run_node(host, "RLGRewardLoader", "JPEG incompressibility", "none")[0]


@torch.inference_mode()
def by_the_graph(host, scene, scale, images=2):
    """Pictures at `scale` through the ordinary nodes."""
    model, rl_model, vae = scene
    guided = guide(host, model, rl_model, scale)
    latent = host.nodes.common_ksampler(
        guided,
        5,
        SETTINGS["steps"],
        SETTINGS["cfg"],
        SETTINGS["sampler_name"],
        SETTINGS["scheduler"],
        conditioning(11),
        conditioning(12),
        {"samples": torch.zeros(images, 16, 8, 8)},
    )[0]
    return host.nodes.VAEDecode().decode(vae, latent)[0]


def trials(report, noise="0"):
    """{scale: (reward, shift, diversity)} of the report's table, for one noise; "last" is the final estimate's."""
    table = [line.split("\t") for line in report.split("scale\treward")[1].splitlines()[1:] if "\t" in line]
    noise = max(row[6] for row in table) if noise == "last" else noise
    return {row[0]: tuple(float(row[k]) for k in (1, 3, 4)) for row in table if row[6] == noise}


def test_it_judges_as_the_graph_does(host, scene):
    scale, schedule, plot, report = find(host, scene)
    tried = trials(report)
    assert {"0", "1", "2", "3", "4"} == tried.keys() and 0.0 <= scale <= 4.0
    assert [schedule.scale_at(p) for p in (0.0, 0.5, 1.0)] == [scale] * 3 and plot.ndim == 4
    pictures = by_the_graph(host, scene, 3.0)
    scores = run_node(host, "RLGReward", pictures, jpeg(host), "")[1]
    assert scores == pytest.approx(tried["3"][0], rel=1e-3)
    sweep = host.module("rlg_core.pictures")
    distance = sweep.picture_distance(pictures, by_the_graph(host, scene, 0.0)).mean()
    assert tried["3"][1] == pytest.approx(float(distance), abs=1e-3)
    assert tried["3"][2] == pytest.approx(sweep.diversity(pictures), abs=1e-3)
    assert len({reward for reward, *_ in tried.values()}) > 1, "scales make a difference"


def test_the_gain_is_told_for_fresh_noise(host, scene):
    scale, _, _, report = find(host, scene)
    final = trials(report, "last")
    assert final.keys() == {"0", f"{scale:.4g}"} and final["0"][0] != trials(report)["0"][0]
    gain = float(report.split("over the base's ")[1].split()[0])
    assert gain == pytest.approx(final[f"{scale:.4g}"][0] - final["0"][0], abs=2e-3 * abs(final["0"][0]))
    assert "+-" in report and "The fit is highest at scale" in report


def test_a_bound_on_the_shift(host, scene):
    free = trials(find(host, scene)[3])
    bound = max(shift for _, shift, _ in free.values()) / 2
    scale, _, _, report = find(host, scene, max_shift=bound)
    assert trials(report, "last")[f"{scale:.4g}"][1] <= bound and "beyond max_shift" in report


def test_by_stage_has_a_scale_for_each_third(host, scene):
    scale, schedule, _, report = find(host, scene, by_stage=True, evaluations=4, images_per_scale=1)
    single = [scales for scales in trials(report) if "/" not in scales]
    assert 0 < len(single) < len(trials(report)), "scales of their own were tried for the stages"
    assert scale == pytest.approx(sum(schedule.scales) / 3) and len(schedule.scales) == 3


def test_every_picture_has_noise_of_its_own(host, scene):
    """Two equal prompts are two more pictures, the first of them from the noise that one prompt alone gets."""
    one = find(host, scene, evaluations=2)[3]
    both = find(host, scene, positive=[conditioning(11)] * 2, evaluations=2, lists=("positive",))[3]
    rewards = [trials(report)["4"][0] for report in (one, both)]
    second = 2 * rewards[1] - rewards[0]
    assert abs(second - rewards[0]) > 1e-3 * abs(rewards[0])
    expected = run_node(host, "RLGReward", by_the_graph(host, scene, 4.0), jpeg(host), "")[1]
    assert rewards[0] == pytest.approx(expected, rel=1e-3)


def test_lists_that_do_not_fit_are_refused(host, scene):
    positive, negative = [conditioning(11)] * 3, [conditioning(12)] * 2
    with pytest.raises(ValueError, match="negative has 2 entries for 3 positive prompts"):
        find(host, scene, positive=positive, negative=negative, lists=("positive", "negative"))


def test_an_identical_pair_is_refused(host, scene):
    model, _, vae = scene
    with pytest.raises(ValueError, match="identical"):
        find(host, (model, model.clone(), vae))


def test_interrupting_stops_it_and_leaves_nothing(host, scene):
    model = scene[0]
    host.comfy.model_management.interrupt_current_processing()
    with pytest.raises(host.comfy.model_management.InterruptProcessingException):
        find(host, scene)
    host.comfy.model_management.interrupt_current_processing(False)
    assert not any("forward" in module.__dict__ for module in model.model.modules())


def test_progress_counts_every_step(host, scene, monkeypatch):
    seen = []
    monkeypatch.setattr(
        host.comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: seen.append((value, total))
    )
    for limit in ("PROGRESS_THROTTLE_MIN_INTERVAL", "PROGRESS_THROTTLE_MIN_PERCENT"):  # 0.30 leaves some out
        monkeypatch.setattr(host.comfy.utils, limit, 0, raising=False)
    find(host, scene, evaluations=3, scale_max=2.0)
    # Three scales, and the base and the one found from fresh noise; where that is the base, it is made once.
    assert {total for _, total in seen} == {5 * 4} and max(seen)[0] in (4 * 4, 5 * 4)
