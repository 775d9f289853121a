"""The sweep file: what it may say, and that what is wrong in it is named."""

import json

import pytest

from devtools.console import Failure
from support.sweeping import PROMPTS, SCALES, graph, plan_of, sweep_of
from sweep import spec

TOML = """
[inputs.scale]
at = "RLGApply.scale"
values = [0, 1.5]
[inputs.seed]
at = "KSampler.seed"
first = 3
count = 2
[inputs.prompt]
at = "Positive prompt.text"
file = { short = "short.txt", long = "long.txt" }
[inputs.cfg]
at = ["KSampler.cfg"]
values = [3, 5]
[rewards]
brightness = "brightness (demo)"
clip = { reward = "CLIP score", folder = "clip" }
[run]
timeout = 60
"""


def test_toml_with_files_of_prompts(tmp_path):
    (tmp_path / "sweep.toml").write_text(TOML)
    (tmp_path / "short.txt").write_text("a cat\n\n  a dog \n")
    (tmp_path / "long.txt").write_text("a very old cat\n")
    found = spec.read(tmp_path / "sweep.toml")
    assert found.scale.values == (0.0, 1.5) and found.axis("seed").values == (3, 4)
    assert found.groups == {"a cat": "short", "a dog": "short", "a very old cat": "long"}
    assert [axis.name for axis in found.axes] == ["prompt", "seed", "cfg"]
    assert found.rewards[1] == spec.Reward("clip", "CLIP score", "clip") and found.run.timeout == 60


def test_json_brings_a_sweep_back(tmp_path):
    found = plan_of(tmp_path, graph(), sweep_of()).spec
    assert spec.Spec.from_json(json.loads(json.dumps(found.to_json()))) == found


def axis(at="KSampler.cfg", **values):
    return {"at": at, **values}


def rows(*values):
    return {"values": list(values)}


CFG = {"KSampler.cfg": 3.0}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scale": None}, r"\[inputs\] lacks 'scale'"),
        ({"cfg": axis()}, r"\[inputs.cfg\]: expected either values, or count"),
        ({"cfg": axis(valeus=[1])}, r"\[inputs.cfg\] has 'valeus': expected .*did you mean 'values'"),
        ({"cfg": axis(values=[])}, r"\[inputs.cfg\] values: expected a list"),
        ({"cfg": axis(values=[1, "2"])}, r"\[inputs.cfg\] values: expected numbers alone, .*\[1, '2'\]"),
        ({"cfg": axis(values=[1, True])}, r"\[inputs.cfg\] values: expected numbers alone, .*\[1, True\]"),
        ({"cfg": axis(values=[1, [2]])}, r"\[inputs.cfg\] values: expected numbers alone, .*\[1, \[2\]\]"),
        ({"cfg": axis(count=2.5)}, r"\[inputs.cfg\]: expected whole numbers.*count = 2.5"),
        ({"cfg": axis(count=2, first="a")}, r"\[inputs.cfg\]: expected whole numbers.*first = 'a'"),
        ({"cfg": axis(values=[1], first=3)}, r"\[inputs.cfg\]: expected either values, or count"),
        ({"cfg": axis(at=5, values=[1])}, r"\[inputs.cfg\] at = 5: expected \"node.input\""),
        ({"cfg": axis(values=[1, 2, 1])}, r"\[inputs.cfg\] values has 1 more than once"),
        ({"cfg": axis(at="cfg", values=[1])}, r"\[inputs.cfg\] at = 'cfg': expected \"node.input\""),
        ({"scale": axis("RLGApply.scale", values=["high"])}, r"\[inputs.scale\] values has 'high': expected numbers"),
        ({"prompt": axis("Positive prompt.text", values=[1])}, r"\[inputs.prompt\] .*expected texts"),
        ({"prompt": axis("Positive prompt.text", file="none.txt")}, "there is no .*none.txt"),
        ({"picture": axis(values=[1])}, "'picture' is no name"),
        ({"cfg": {"values": [1]}}, r"\[inputs.cfg\] lacks 'at'"),
        ({"cfg": rows({"name": "a"})}, r"\[inputs.cfg\] lacks 'at'"),
        ({"cfg": rows({"KSampler.cfg": 1})}, r"\[inputs.cfg\] values: {'KSampler.cfg': 1} lacks 'name'"),
        ({"cfg": rows({"name": "a", "KSampler.cfg": 1}, 2)}, r"\[inputs.cfg\] values: expected tables alone.* found 2"),
        ({"cfg": rows({"name": "a", "cfg": 1})}, r"\[inputs.cfg\] row 'a': 'cfg': expected \"node.input\""),
        ({"cfg": rows({"name": "a", "KSampler.cfg": [1]})}, r"\[inputs.cfg\] KSampler.cfg: expected numbers alone"),
        ({"cfg": rows({"name": "a", **CFG}, {"name": "a", **CFG})}, r"\[inputs.cfg\] values has 'a' more than once"),
        (
            {"cfg": rows({"name": "a", **CFG}, {"name": "b", "KSampler.steps": 3})},
            r"row 'b' sets KSampler.steps, row 'a' sets KSampler.cfg: expected the same inputs",
        ),
        (
            {"cfg": rows({"name": "a", **CFG}, {"name": "b", "KSampler.cfg": "high"})},
            r"\[inputs.cfg\] KSampler.cfg: expected numbers alone, .*\[3.0, 'high'\]",
        ),
        (
            {"cfg": rows({"name": "a", **CFG, "KSampler": {"cfg": 4.0}})},
            r"\[inputs.cfg\] row 'a' sets KSampler.cfg twice",
        ),
        ({"cfg": rows({"name": "a", **CFG, "sampler.cfg": 4.0})}, r"\[inputs.cfg\] sets sampler.cfg twice"),
        (
            {"cfg": rows({"name": "a", "KSampler.seed": 4})},
            r"\[inputs.seed\] .*\[inputs.cfg\]|\[inputs.cfg\] .*both set",
        ),
        ({"cfg": rows({"name": "a", "KSampeler.cfg": 4})}, "the workflow has no such node; did you mean 'KSampler'"),
        ({"cfg": rows({"name": "a", "KSampler.model": 4})}, "that input is wired to node guidance"),
        ({"scale": rows({"name": 1.0, **CFG})}, r"\[inputs.scale\] values: expected numbers, no tables"),
        ({"cfg": axis("KSampler.seed", values=[1])}, r"\[inputs.seed\] .*\[inputs.cfg\]|\[inputs.cfg\] .*both set"),
        ({"cfg": axis("KSampeler.cfg", values=[1])}, "the workflow has no such node; did you mean 'KSampler'"),
        ({"cfg": axis("KSampler.model", values=[1])}, "that input is wired to node guidance"),
        ({"seed": axis("Save Image.filename_prefix", values=["a"])}, "the pictures do not depend on node save"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, told):
    with pytest.raises(Failure, match=told):
        plan_of(tmp_path, graph(), sweep_of(**changes))


def test_every_combination_is_one_unit(tmp_path):
    plan = plan_of(tmp_path, graph(), sweep_of(cfg=axis(values=[3.0, 5.0])))
    units = plan.units()
    assert len({unit.key for unit in units}) == len(units) == 2 * 2 * len(PROMPTS)
    assert {unit.scales for unit in units} == {SCALES}
    assert [len(values) for values in plan.by_setting()] == [2 * len(PROMPTS)] * 2


ROWS = """
[[inputs.adapter.values]]
name = "bright"
"RLGAdapterLoader.lora_name" = "rlg-demo/rl-brightness"
KSampler.cfg = 3.0
[[inputs.adapter.values]]
name = "small"
KSampler.cfg = 5.0
"RLGAdapterLoader.lora_name" = "rlg-demo/rl-jpeg"
"""


def with_rows(tmp_path):
    values = spec.PARSERS[".toml"](ROWS)["inputs"]["adapter"]
    return plan_of(tmp_path, graph(), sweep_of(adapter=values), FILES | {"rlg-demo/rl-jpeg": "c"})


def test_a_row_sets_its_inputs_together(tmp_path):
    plan = with_rows(tmp_path)
    found = {}
    for unit in plan.units():
        made = plan.recipe.plain(unit.values, 1.0)
        own = made["rl_adapter"]["inputs"]["lora_name"], made["sampler"]["inputs"]["cfg"]
        assert unit.beside == {"RLGAdapterLoader.lora_name": own[0], "KSampler.cfg": own[1]}
        assert unit.loads == tuple(sorted(["rlg-demo-base.safetensors", own[0]]))
        found[unit.values["adapter"]] = own
    assert found == {"bright": ("rlg-demo/rl-brightness", 3.0), "small": ("rlg-demo/rl-jpeg", 5.0)}
    assert len(plan.by_setting()) == 2 and len({unit.key for unit in plan.units()}) == 2 * 2 * len(PROMPTS)
    assert spec.Spec.from_json(json.loads(json.dumps(plan.spec.to_json()))) == plan.spec


def test_a_name_goes_into_at_and_a_row_of_prompts_is_judged_by_its_name(tmp_path):
    values = {
        "first": [{"name": PROMPTS[0], "KSampler.cfg": 2.0}],
        "second": [{"name": PROMPTS[1], "KSampler.cfg": 4.0}],
    }
    plan = plan_of(tmp_path, graph(), sweep_of(prompt={"at": "Positive prompt.text", "values": values}))
    assert plan.spec.groups == {PROMPTS[0]: "first", PROMPTS[1]: "second"}
    for unit in plan.units():
        ((made, _),) = plan.recipe.graphs(unit.values, SCALES)
        judged = made["rlg-sweep-judge-0"]["inputs"]["prompt"]
        assert made["positive"]["inputs"]["text"] == judged == unit.values["prompt"]
        assert made["sampler"]["inputs"]["cfg"] == 2.0 + 2.0 * PROMPTS.index(judged)


def test_rows_that_set_the_same_are_units_of_their_own(tmp_path):
    plan = plan_of(tmp_path, graph(), sweep_of(cfg=rows({"name": "a", **CFG}, {"name": "b", **CFG})))
    assert len({unit.key for unit in plan.units()}) == 2 * 2 * len(PROMPTS)


SMALLEST = {
    "guide": {"class_type": "RLGApply", "inputs": {"scale": 1.0}},
    "text": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}},
    "sampler": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["guide", 0],
            "positive": ["text", 0],
            "latent_image": ["latent", 0],
            "seed": 0,
            "sampler_name": "euler",
        },
    },
    "latent": {"class_type": "EmptyLatentImage", "inputs": {}},
    "save": {"class_type": "SaveImage", "inputs": {"images": ["sampler", 0]}},
}


def test_without_rows_a_results_folder_of_before_goes_on(tmp_path):
    prompts = {"at": "CLIPTextEncode.text", "values": ["a cat"]}
    plan = plan_of(tmp_path, SMALLEST, sweep_of(prompt=prompts))
    assert plan.units()[0].key == "40fb6fb975c1b184a6602a34c3d4eaeb5eb4eaab42b533bea7ee02fa605434f5"
    assert plan.spec.to_json()["axes"][1] == {"name": "seed", "at": ["KSampler.seed"], "values": [7, 8]}


FILES = {"rlg-demo-base.safetensors": "a", "rlg-demo/rl-brightness": "b"}


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ((graph(steps=3), {}, FILES), True),
        ((graph(), {"scale": axis("RLGApply.scale", values=[0, 1, 3])}, FILES), True),
        ((graph(), {}, FILES | {"rlg-demo/rl-brightness": "another adapter of that name"}), True),
        ((graph(), {}, FILES | {"a file that no unit loads": "c"}), False),
    ],
    ids=["graph", "scales", "file", "another file"],
)
def test_a_key_stands_for_all_that_a_unit_depends_on(tmp_path, changed, differs):
    content, inputs, files = changed
    first = plan_of(tmp_path, graph(), sweep_of(), FILES).units()[0]
    assert (plan_of(tmp_path, content, sweep_of(**inputs), files).units()[0].key != first.key) == differs


@pytest.mark.parametrize(
    ("sampler", "why"),
    [({"sampler_name": "euler"}, ""), ({"sampler_name": "euler_ancestral"}, "'euler_ancestral' is not among those")],
)
def test_scales_share_a_run_where_the_sampler_draws_no_noise(tmp_path, sampler, why):
    recipe = plan_of(tmp_path, graph(**sampler), sweep_of()).recipe
    assert why in recipe.apart and bool(why) == bool(recipe.apart)
    values = {"prompt": PROMPTS[0], "seed": 7}
    assert [scales for _, scales in recipe.graphs(values, SCALES)] == ([(s,) for s in SCALES] if why else [SCALES])


def test_one_value_that_keeps_scales_apart_does_so_for_all(tmp_path):
    samplers = axis("KSampler.sampler_name", values=["euler", "euler_ancestral"])
    assert "'euler_ancestral'" in plan_of(tmp_path, graph(), sweep_of(sampler=samplers)).recipe.apart
    noisy = rows({"name": "a", "KSampler.sampler_name": "euler"}, {"name": "b", "KSampler.sampler_name": "dpmpp_sde"})
    assert "'dpmpp_sde'" in plan_of(tmp_path, graph(), sweep_of(sampler=noisy)).recipe.apart


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"refresh_every": 2}, ""), ({"evaluate": "segmented"}, "evaluate"), ({"tolerance": 0.01}, "tolerance")],
)
def test_scales_run_apart_where_a_budget_is_for_a_whole_batch(tmp_path, settings, why):
    content = graph()
    sampler = next(node for node in content.values() if node["class_type"] == "KSampler")
    content["budget"] = {"class_type": "RLGBudget", "inputs": {"model": sampler["inputs"]["model"], **settings}}
    sampler["inputs"]["model"] = ["budget", 0]
    apart = plan_of(tmp_path, content, sweep_of()).recipe.apart
    assert why in apart and bool(why) == bool(apart)
