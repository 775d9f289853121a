"""The evidence run on the demo's base with random adapters: its ways of sampling, its statistics and its page."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from support import tiny
from support.host import is_oldest, repository_on_path
from support.tensors import largest

with repository_on_path():
    from demo import model
    from demo.evidence import findings, run, statistics, ways
    from demo.evidence.measure import Archive
    from demo.evidence.pair import Pair
    from demo.evidence.sizes import QUICK
    from rlg_core.rewards.scenes import parse

pytestmark = pytest.mark.skipif(is_oldest(), reason="the evidence is measured on the newer release alone")
SIZES = replace(QUICK, prompts=2, steps=2, ranked=3)
ADAPTERS = ("brightness", "brightness-beta0.5", "brightness-seed1", "jpeg")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of models as the demo's: its base, VAE and texts, random adapters."""
    root = tmp_path_factory.mktemp("demo") / "models"
    for name in ("diffusion_models", "text_encoders", "vae"):
        shutil.copytree(ways.MODELS / name, root / name)
    (root / "diffusion_models" / ways.FULL).unlink(missing_ok=True)
    (root.parent / "logs").mkdir()
    for seed, name in enumerate(ADAPTERS):
        base = model.load(root / "diffusion_models" / "rlg-demo-base.safetensors")
        tiny.with_adapter(base, tiny.SD3_TARGETS, seed=seed).save_pretrained(root / "loras" / "rlg-demo" / f"rl-{name}")
        settings = {"reward": name.split("-")[0], "beta": 0.5 if "beta" in name else 1.0, "seed": seed, "iterations": 7}
        sweep = [{"scale": w, settings["reward"]: w if name == "brightness" else 1 - w} for w in (0, 1, 2)]
        (root.parent / "logs" / f"rl-{name}.json").write_text(json.dumps({"settings": settings, "sweep": sweep}))
    return root


@pytest.fixture(scope="module")
def pair(host, models):
    experts = ways.find_experts(models, models.parent / "logs")
    return Pair(host, experts, [parse("two red circles"), parse("one blue square")], 3, models)


def test_experts_are_found_with_their_reward_and_beta(models):
    found = ways.find_experts(models, models.parent / "logs")
    assert [(e.name, e.reward, e.beta) for e in found] == [
        ("brightness", "brightness", 1.0),
        ("brightness-beta0.5", "brightness", 0.5),
        ("brightness-seed1", "brightness", 1.0),
        ("jpeg", "jpeg", 1.0),
    ]
    assert [e.name for e in ways.other_betas(found, found[0])] == ["brightness-beta0.5"]
    assert [(run["reward"], run["seed"]) for run in ways.logged_sweeps(models.parent / "logs")] == [
        ("brightness", 0),
        ("brightness", 2),
    ]


def test_ways_are_what_they_say(host, pair):
    base = pair.latents(ways.Way(), 5)
    one = pair.latents(ways.rlg("brightness", 1.0), 5)
    assert torch.equal(pair.latents(ways.rlg("brightness", 0.0), 5), base) and largest(one, base) > 0.1
    latent = {"samples": torch.zeros(2, 16, 12, 12)}
    with torch.inference_mode():
        plain = host.nodes.common_ksampler(
            pair.rl_model("brightness"), 5, 3, 1.0, "euler", "simple", pair.together(), pair.empty, latent
        )[0]["samples"]
    assert largest(one, plain) < 1e-4
    strength, two = pair.latents(ways.lora("brightness", 2.0), 5), pair.latents(ways.rlg("brightness", 2.0), 5)
    with torch.inference_mode():
        doubled = pair.node("RLGAdapterLoader", pair.base, "rlg-demo/rl-brightness", 2.0, 0.0, "")
        turned_up = host.nodes.common_ksampler(
            doubled, 5, 3, 1.0, "euler", "simple", pair.together(), pair.empty, latent
        )[0]
    assert largest(strength, turned_up["samples"]) < 1e-4 and largest(strength, two) > 1e-2


def test_prompts_in_one_batch_are_as_by_themselves(pair):
    assert largest(pair.latents(ways.Way(), 5)[:1], pair.latents(ways.Way(), 5, slice(0, 1))) < 1e-4
    assert pair.codec_error() < 1e-3


def test_the_run_writes_the_page_and_measures_nothing_twice(host, models, tmp_path):
    page, said = tmp_path / "EVIDENCE.md", []
    for _ in range(2):
        run.run(host, "0", SIZES, page, list(run.PARTS), said.append, models=models)
    measured = [line for line in said if not line.startswith("measuring")]
    archive = Archive(tmp_path / "evidence" / run.ARCHIVE)
    assert len(measured) == len(set(measured)) == len(archive.entries)
    what, entry = next(iter(archive.entries.items()))
    assert archive.get(what, entry["files"]) == entry["result"] and archive.get(what, "other files") is None
    text = page.read_text(encoding="utf-8")
    assert "Not measured yet" not in text and "nan" not in text
    pictures = re.findall(r"\]\((evidence/.+?\.png)\)", text)
    assert len(pictures) >= 6 and all((tmp_path / name).is_file() for name in pictures)
    assert "in 1 of 2 trainings" in text and "the second would be at w = 2 of the first" in text
    for part in run.PARTS:
        assert (tmp_path / "evidence" / f"{part}.json").is_file()


def test_a_page_of_what_is_measured_so_far(host, models, tmp_path):
    page, said = tmp_path / "EVIDENCE.md", []
    run.run(host, "0", SIZES, page, ["scales"], said.append, models=models)
    archive = Archive(tmp_path / "evidence" / run.ARCHIVE)
    what = "CFG 1, RLG jpeg 2 x 2"
    archive.entries[what]["files"] = "others"
    archive.put("CFG 1, LoRA strength brightness 2 x 2", "others", {})
    run.run(host, "0", SIZES, page, ["scales", "kl"], said.append, until=0.0, models=models)
    text = page.read_text(encoding="utf-8")
    assert "Not measured yet: jpeg." in text and "### brightness" in text and "LoRA strength" not in text
    assert "out of time: kl stays as it was" in said


def test_out_of_time_leaves_what_there_is(host, models, tmp_path):
    run.run(
        host,
        "0",
        SIZES,
        tmp_path / "EVIDENCE.md",
        ["scales"],
        lambda _: None,
        until=0.0,
        models=models,
    )
    text = (tmp_path / "EVIDENCE.md").read_text(encoding="utf-8")
    assert "Not measured yet: cfg, scales, kl, experts, schedules, implicit and auto." in text


def row(scale, step, correct=0.0):
    value = {"mean": 1.0, "half": 0.1, "n": 9}
    change = {"mean": step, "half": 0.1, "n": 9}
    lost = {"mean": correct, "half": 0.01, "n": 9}
    values = {"jpeg": value | {"mean": scale}, "correct": value | {"mean": 0.9 + correct}, "diversity": value}
    return {
        "scale": scale,
        "rlg": values,
        "lora": None,
        "over_previous": {"jpeg": change},
        "over_one_less": {"jpeg": change},
        "over_base": {"jpeg": value | {"mean": scale}, "correct": lost},
        "diversity_over_base": change,
    }


@pytest.mark.parametrize(("step", "rises"), [(0.2, "**yes**"), (0.05, "**no**"), (-0.2, "**no**")])
def test_sentences_follow_the_numbers(step, rises):
    rows = [row(0.0, 0.0), row(0.5, 0.2), row(1.0, 0.2), row(2.0, step, -0.3)]
    cfg = [{"cfg": 1.0, "values": {"jpeg": {"mean": 0.5, "half": 0.1, "n": 9}}}]
    best = {"cfg": 3.0, "reward": {"mean": 0.75, "half": 0.1, "n": 9}, "at": 0.75, "low": 0.5, "high": None}
    text = "\n".join(findings.sentences({"reward": "jpeg", "rows": rows, "as_cfg": best}, cfg))
    assert f"beyond error, and falls nowhere between: {rises}" in text
    assert "w = 0.5 gains +0.500" in text
    assert (
        "Where it breaks: at w = 2" in text
        and "RLG at CFG 1 reaches that, from the same noise, at w = 0.75 (0.50 to beyond the range)" in text
    )


def test_a_verdict_says_how_much_is_left_to_gain():
    rows = [row(w, 0.1) for w in (0.0, 1.0, 2.0)]
    for found, score in zip(rows, (0.6, 0.8, 0.9)):
        found["rlg"]["composition"] = {"mean": score, "half": 0.1, "n": 9}
        found["over_previous"]["composition"] = found["over_one_less"]["composition"] = {
            "mean": 0.1,
            "half": 0.05,
            "n": 9,
        }
        found["over_base"]["composition"] = {"mean": score - 0.6, "half": 0.1, "n": 9}
    cfg = [{"cfg": 1.0, "values": {"composition": {"mean": 0.6, "half": 0.1, "n": 9}}}]
    text = "\n".join(findings.sentences({"reward": "composition", "rows": rows, "as_cfg": {"cfg": 1.0}}, cfg))
    assert (
        "of the 0.4 that the base misses, the RL model makes up +0.200 \u00b1 0.100, w = 2 +0.300 \u00b1 0.100" in text
    )


def test_statistics():
    assert statistics.paired([2.0, 3.0, 4.0], [1.0, 2.0, 3.0]) == statistics.Estimate(1.0, 0.0, 3, 2)
    by_caption = statistics.estimate([0.0, 1.0, 2.0, 1.0, 2.0, 3.0], captions=3)
    assert (by_caption.mean, by_caption.n, by_caption.degrees) == (1.5, 3, 2)  # captions 0.5, 1.5 and 2.5
    assert statistics.rank_correlation([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)
    assert statistics.ranks([5.0, 1.0, 5.0]).tolist() == [1.5, 0.0, 1.5]
    assert [statistics.crossing([0, 1, 2], [0.0, 1.0, 3.0], y) for y in (-1.0, 2.0, 4.0)] == [0, 1.5, math.inf]
    assert [statistics.Estimate(m, 1.0, 5).sign for m in (-2.0, 0.5, 2.0)] == [-1, 0, 1]
    rising = np.linspace(0.0, 1.0, 3)[None] + 0.01 * np.arange(6)[:, None]
    found = statistics.crossing_of_means([0.0, 1.0, 2.0], rising, np.full(6, 0.525))
    assert found["at"] == pytest.approx(1.0, abs=1e-6) and found["low"] < 1.0 < found["high"]


def test_the_page_says_how_many_differences_chance_would_make():
    change = {"half": 1.0, "n": 54, "degrees": 53}
    part = {"over_base": [change | {"mean": mean} for mean in (0.2, 1.05, 9.0)], "values": change | {"mean": 5.0}}
    said = "\n".join(run.certainty({"scales": part}))
    assert "3 differences are tested: 2 are beyond error one by one" in said and "and 1 hold together" in said
    assert "too narrow intervals:" not in said and "too narrow intervals: scales" in "\n".join(
        run.certainty({"scales": {"over_base": {"mean": 1.0, "half": 1.0, "n": 270}}})
    )
