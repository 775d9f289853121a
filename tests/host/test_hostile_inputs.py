"""Values that no widget gives, as links and the API can: refused in the pack's own words, or harmless."""

from __future__ import annotations

import math

import pytest
import torch

from support import tiny
from support.guiding import guide, run_node
from support.sampling import Sampling

NAN, INF, HUGE = math.nan, math.inf, 10**400
LATENT = {"samples": torch.zeros(1, 16, 8, 8)}
PICTURES = torch.full((3, 8, 8, 3), 0.5)
NO_NUMBERS = (NAN, INF, -INF, 1e300, HUGE, "2", None, True)


@pytest.fixture(scope="module")
def pair(host):
    return tiny.sd3_pair(host)


@pytest.fixture
def refused(host):
    """Raises unless the pack refuses, in few words."""

    def check(call):
        with pytest.raises(host.module("rlg_core.errors").RLGError) as raised:
            call()
        assert 20 < len(str(raised.value)) < 600

    return check


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:8])
@pytest.mark.parametrize("name", ["scale", "start_percent", "end_percent", "outside_scale", "rescale", "max_ratio"])
def test_numbers_of_guidance(host, pair, refused, name, value):
    refused(lambda: guide(host, *pair, **{name: value}))


@pytest.mark.parametrize(
    "name, values",
    [
        ("RLGSchedule", ("linear", NAN, 1.0, 0.0, 1.0, 1.0)),
        ("RLGSchedule", ("linear", 1.0, INF, 0.0, 1.0, 1.0)),
        ("RLGSchedule", ("power", 1.0, 1.0, 0.0, 1.0, -1.0)),
        ("RLGSchedule", ("power", 1.0, 1.0, 0.0, 1.0, NAN)),
        ("RLGSchedule", ("z" * 1_000_000, 1.0, 1.0, 0.0, 1.0, 1.0)),
        ("RLGScaleFromKL", (NAN, 1.0)),
        ("RLGScaleFromKL", (1.0, 0.0)),
        ("RLGBranch", (NAN, 1.0, 1.0)),
        ("RLGBranch", (0.0, 1.0, INF)),
        ("RLGSweep", ("1e308",)),
        ("RLGSweep", ("9" * 1_000_000,)),
        ("RLGSweep", ("1 " * 500_000,)),
        ("RLGSweep", ("\ud800",)),
        ("RLGBatchSweep", (LATENT, "1 " * 500_000)),
        ("RLGPickBest", ([PICTURES], [1.0, 2.0, 3.0], [0])),
        ("RLGPickBest", ([PICTURES], [1.0, 2.0, 3.0], [2.5])),
        ("RLGPickBest", ([PICTURES], [1.0, NAN, 3.0], [1])),
        ("RLGPickBest", ([], [], [1])),
        ("RLGSweepGrid", ([PICTURES], [0.0, NAN, 2.0])),
        ("RLGSweepGrid", ([PICTURES], [0.0, 1.0, 2.0], [NAN, 1.0, 2.0])),
        ("RLGSweepGrid", ([], [])),
        ("RLGRewardLoader", ("z" * 1_000_000, "none")),
        ("RLGRewardLoader", ("CLIP score", "../../etc")),
        ("RLGRewardLoader", ("CLIP score", None)),
        ("RLGRewardLoader", ("CLIP score", "a\0b")),
        ("RLGCheckpointPairLoader", ("a", "b", "z" * 1_000_000, "off", 4)),
        ("RLGCheckpointPairLoader", ("a", "b", "default", "z", 4)),
        ("RLGCheckpointPairLoader", ("a\0b", "\ud800", "default", "off", 4)),
    ],
)
def test_nodes_without_a_model(host, refused, name, values):
    refused(lambda: run_node(host, name, *values))


@pytest.mark.parametrize(
    "values",
    [(0, 0), (-1, 0), (NAN, 0), (2.5, 0), (10**9, 0), (1, 2**70), (1, -1), (1, NAN), (1, "x")],
    ids=lambda values: str(values),
)
def test_draws_and_seeds(host, pair, refused, values):
    refused(lambda: run_node(host, "RLGImplicitReward", *pair, Sampling().positive, LATENT, *values))


@pytest.mark.parametrize(
    "values",
    [
        *(("exact", count, 0.0, "auto") for count in (0, -1, NAN, 2.5, HUGE, "2")),
        ("exact", 2, NAN, "auto"),
        ("exact", 2, -1.0, "auto"),
        ("z" * 1_000_000, 1, 0.0, "auto"),
        ("exact", 1, 0.0, "z"),
        ("exact", 1, 0.0, "auto", "z"),
    ],
    ids=lambda values: str(values)[:40],
)
def test_budgets(host, pair, refused, values):
    guided = guide(host, *pair)
    refused(lambda: run_node(host, "RLGBudget", guided, *values))


@pytest.mark.parametrize(
    "values", [(0, 1.0), (NAN, 1.0), (2.5, 1.0), (10**7, 1.0), (2, NAN), (2, 2.0)], ids=lambda values: str(values)
)
def test_ranks_and_energies(host, pair, refused, values):
    refused(lambda: run_node(host, "RLGExtractAdapter", *pair, *values, "x"))


@pytest.mark.parametrize(
    "mask",
    [
        torch.full((1, 8, 8), NAN),
        torch.full((1, 8, 8), INF),
        torch.ones(8),
        torch.tensor(1.0),
        torch.ones(0, 8, 8),
        torch.ones(1, 0, 8),
        torch.ones(1, 8, 8, 3),
        torch.ones(1, 1, 1, 8, 8),
        "a mask",
    ],
    ids=lambda mask: str(getattr(mask, "shape", mask)),
)
def test_what_is_no_mask(host, pair, refused, mask):
    refused(lambda: guide(host, *pair, mask=mask))


@pytest.mark.parametrize(
    "prefix",
    ["../../x", "/etc/x", "a/../../b", "a\0b", "x" * 5000, "a/" * 3000, "\ud800", 5],
    ids=lambda prefix: repr(prefix)[:12],
)
@pytest.mark.parametrize("form", ["comfyui", "peft"])
def test_nothing_is_written_outside_the_output_folder(host, pair, refused, tmp_path, monkeypatch, prefix, form):
    output = tmp_path / "deep" / "output"
    output.mkdir(parents=True)
    monkeypatch.setattr(host.folder_paths, "output_directory", str(output))
    refused(lambda: run_node(host, "RLGSaveAdapter", *pair, prefix, form))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}


@pytest.mark.parametrize("prefix", ["", "..", "~/x", "C:\\x", " ", "\u00e9/\u4e2d", "a/../b"])
def test_odd_names_below_the_output_folder(host, pair, tmp_path, monkeypatch, prefix):
    output = tmp_path / "deep" / "output"
    monkeypatch.setattr(host.folder_paths, "output_directory", str(output))
    for form in ("comfyui", "peft"):
        run_node(host, "RLGSaveAdapter", *pair, prefix, form)
    assert all(output in path.parents for path in tmp_path.rglob("*") if path.is_file())


def test_a_choice_that_is_none(host, pair, refused):
    refused(lambda: run_node(host, "RLGSaveAdapter", *pair, "x", "z" * 1_000_000))


@pytest.mark.parametrize("prompt", ["no quotes " * 100_000, '" "', ""])
def test_prompts_without_wanted_text(host, refused, prompt):
    judge = run_node(host, "RLGRewardLoader", "text rendering (OCR)", "none")[0]
    refused(lambda: run_node(host, "RLGReward", torch.rand(1, 32, 32, 3), judge, prompt))


@pytest.mark.parametrize("pictures", [torch.full((1, 16, 16, 3), NAN), torch.zeros(0, 16, 16, 3)])
def test_pictures_that_are_none(host, refused, pictures):
    judge = run_node(host, "RLGRewardLoader", "JPEG compressibility", "none")[0]
    refused(lambda: run_node(host, "RLGReward", pictures, judge, ""))


@pytest.mark.parametrize("value", ["../../etc/passwd", 3, 0.5, True, {"a": []}], ids=repr)
@pytest.mark.parametrize(
    "name, others",
    [
        ("RLGApply", {"rl_model": None, "scale": 1.0, "start_percent": 0.0, "end_percent": 1.0, "rescale": 0.0}),
        ("RLGTrace", {}),
        ("RLGBatchSweep", {"scales": "1"}),
        ("RLGAdapterLoader", {"lora_name": "x", "strength": 1.0, "alpha": 0.0, "adapter": ""}),
    ],
)
def test_constants_where_a_wire_belongs(host, refused, name, others, value):
    first = "latent" if name == "RLGBatchSweep" else "model"
    refused(lambda: run_node(host, name, **{first: value}, **others))


@pytest.mark.parametrize("value", ["x", 3, [], [[]], {}], ids=repr)
@pytest.mark.parametrize(
    "name, others", [("RLGPickBest", {"scores": [1.0], "keep": [1]}), ("RLGSweepGrid", {"scales": [1.0]})]
)
def test_constants_in_a_list_of_wires(host, refused, name, others, value):
    refused(lambda: run_node(host, name, images=[value], **others))


@pytest.mark.parametrize(
    "name", ["RLGApply", "RLGSchedule", "RLGBudget", "RLGSweep", "RLGBatchSweep", "RLGAdapterLoader"]
)
def test_inputs_that_are_missing_are_the_hosts_to_tell(host, name):
    assert host.classes[name].validate_inputs() is True


@pytest.mark.parametrize("value", [[], {"a": 1}, 3], ids=repr)
def test_scales_that_are_no_text(host, value):
    assert "scales is" in host.classes["RLGSweep"].validate_inputs(scales=value)


@pytest.mark.parametrize("adapter", ["a" * 1_000_000, "a, b", "\ud800", "../x", "\0"])
def test_adapter_names(host, pair, refused, tmp_path, monkeypatch, adapter):
    from safetensors.torch import save_file

    save_file(tiny.sd3_lora(), tmp_path / "rl.safetensors")
    monkeypatch.setitem(host.folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    refused(lambda: run_node(host, "RLGAdapterLoader", pair[0], "rl.safetensors", 1.0, 0.0, adapter))
