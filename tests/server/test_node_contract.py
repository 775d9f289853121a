"""Node ids and input names are saved in users' workflow files: they never change, new ones are appended."""

import re
import urllib.error

import pytest

CONTRACT = {
    "RLGAdapterLoader": "model lora_name strength alpha adapter",
    "RLGCheckpointPairLoader": "base_name rl_name weight_dtype compress rank",
    "RLGApply": "model rl_model scale start_percent end_percent outside_scale rescale schedule mask branch",
    "RLGSchedule": "shape scale_from scale_to start_percent end_percent power",
    "RLGScaleFromKL": "trained_beta target_beta",
    "RLGBranch": "rl_cfg positive_scale negative_scale",
    "RLGBudget": "model evaluate refresh_every tolerance batching",
    "RLGTrace": "model",
    "RLGTracePlot": "trace after",
    "RLGBatchSweep": "latent scales schedule",
    "RLGSweep": "scales",
    "RLGSweepGrid": "images scales scores",
    "RLGRewardLoader": "reward folder",
    "RLGReward": "image reward prompt",
    "RLGPickBest": "images scores keep",
    "RLGImplicitReward": "model rl_model positive latent draws seed",
    "RLGAutoScale": "model rl_model positive negative latent vae reward prompt seed steps cfg sampler_name scheduler "
    "scale_min scale_max evaluations images_per_scale max_shift by_stage",
    "RLGExtractAdapter": "model rl_model rank energy filename_prefix",
    "RLGSaveAdapter": "model rl_model filename_prefix format",
}
RELEASED = {
    "RLGAdapterLoader": ("MODEL", "STRING"),
    "RLGCheckpointPairLoader": ("MODEL", "MODEL", "CLIP", "VAE", "STRING"),
    "RLGApply": ("MODEL",),
}


@pytest.fixture(scope="module")
def nodes(server):
    return {name: info for name, info in server.get("/object_info").items() if name.startswith("RLG")}


def input_names(info):
    return [name for group in ("required", "optional") for name in info["input_order"].get(group, [])]


def test_released_nodes_are_there_with_their_outputs(nodes):
    assert {name: tuple(nodes[name]["output"]) for name in RELEASED if name in nodes} == RELEASED


def test_every_node_keeps_its_inputs_in_order(nodes):
    for name, info in nodes.items():
        found = input_names(info)
        assert found == CONTRACT[name].split()[: len(found)], name


def test_every_node_is_in_the_category(nodes):
    assert {info["category"] for info in nodes.values()} == {"advanced/guidance/RLG"}


def test_every_input_has_a_tooltip(nodes):
    bare = [
        f"{name}.{key}"
        for name, info in nodes.items()
        for group in ("required", "optional")
        for key, spec in info["input"].get(group, {}).items()
        if len(spec) < 2 or not spec[1].get("tooltip")
    ]
    assert bare == []


def test_every_node_has_a_help_page(server, nodes):
    pages = {name: help_page(server, name) for name in nodes}
    assert [name for name, page in pages.items() if not page.startswith("#")] == []


def help_page(server, name):
    """Return a node's help page, "" where the server has none."""
    try:
        return server.read(f"/extensions/ComfyUI-RLG/docs/{name}/en.md").decode()
    except urllib.error.HTTPError:
        return ""


def test_the_pack_imports_at_once(server):
    (seconds,) = re.findall(r"([\d.]+) seconds: .*ComfyUI-RLG\s", server.log.read_text(encoding="utf-8"))
    assert float(seconds) < 1.0
