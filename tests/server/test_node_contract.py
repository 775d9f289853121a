"""Node ids and input names are saved in users' workflow files: they never change, new ones are appended."""

from typing import NamedTuple

import pytest

from devtools.paths import PACK


class Node(NamedTuple):
    """Names of inputs and types of outputs, in order and separated by spaces; `[]` marks an output that is a list."""

    required: str
    optional: str
    outputs: str


CONTRACT = {
    "RLGAdapterLoader": Node("model lora_name strength alpha adapter", "text_encoder", "MODEL STRING"),
    "RLGCheckpointPairLoader": Node("base_name rl_name weight_dtype compress rank", "", "MODEL MODEL CLIP VAE STRING"),
    "RLGApply": Node(
        "model rl_model scale start_percent end_percent outside_scale rescale",
        "schedule mask branch max_ratio",
        "MODEL",
    ),
    "RLGSchedule": Node("shape scale_from scale_to start_percent end_percent power", "preset", "RLG_SCHEDULE"),
    "RLGScaleFromKL": Node("trained_beta target_beta", "", "FLOAT"),
    "RLGBranch": Node("rl_cfg positive_scale negative_scale", "", "RLG_BRANCH"),
    "RLGBudget": Node("model evaluate refresh_every tolerance batching", "experts", "MODEL"),
    "RLGTrace": Node("model", "", "MODEL RLG_TRACE"),
    "RLGTracePlot": Node("trace after", "", "IMAGE STRING LATENT"),
    "RLGBatchSweep": Node("latent scales", "schedule", "LATENT RLG_SCHEDULE FLOAT[]"),
    "RLGSweep": Node("scales", "", "FLOAT[]"),
    "RLGSweepGrid": Node("images scales", "scores", "IMAGE IMAGE STRING"),
    "RLGRewardLoader": Node("reward folder", "", "RLG_REWARD"),
    "RLGReward": Node("image reward prompt", "", "FLOAT[] FLOAT IMAGE"),
    "RLGPickBest": Node("images scores keep", "", "IMAGE INT[]"),
    "RLGImplicitReward": Node("model rl_model positive latent draws seed", "error", "FLOAT[] FLOAT[]"),
    "RLGAutoScale": Node(
        "model rl_model positive negative latent vae reward prompt seed steps cfg sampler_name scheduler "
        "scale_min scale_max evaluations images_per_scale max_shift by_stage",
        "",
        "FLOAT RLG_SCHEDULE IMAGE STRING",
    ),
    "RLGExtractAdapter": Node("model rl_model rank energy filename_prefix", "", "MODEL STRING"),
    "RLGExtractFromFiles": Node("base_name rl_name rank energy filename_prefix", "", "STRING STRING"),
    "RLGSaveAdapter": Node("model rl_model filename_prefix format", "", "STRING"),
}

WORDS = ("LoRA", "guidance scale", "PEFT")
ADVANCED = {
    "RLGAdapterLoader": "alpha adapter text_encoder",
    "RLGCheckpointPairLoader": "weight_dtype",
    "RLGApply": "start_percent end_percent outside_scale rescale max_ratio",
    "RLGSchedule": "power",
    "RLGBudget": "tolerance batching",
    "RLGExtractAdapter": "energy",
    "RLGExtractFromFiles": "energy",
    "RLGAutoScale": "max_shift by_stage",
}
"""Names of the inputs that editors fold away."""


@pytest.fixture(scope="module")
def nodes(server):
    """What the server tells of each of the pack's nodes, by id."""
    told = server.get("/object_info")
    return {name: info for name, info in told.items() if info["python_module"] == f"custom_nodes.{PACK}"}


def as_told(info):
    """Return the Node that the server describes."""
    inputs = (" ".join(info["input_order"].get(group, [])) for group in ("required", "optional"))
    outputs = [kind + "[]" * is_list for kind, is_list in zip(info["output"], info["output_is_list"], strict=True)]
    return Node(*inputs, " ".join(outputs))


def test_the_nodes_are_these_and_no_others(nodes):
    assert nodes.keys() ^ CONTRACT.keys() == set(), "neither lost nor new"


@pytest.mark.parametrize("name", CONTRACT)
def test_a_node_keeps_its_inputs_and_outputs(nodes, name):
    assert as_told(nodes[name]) == CONTRACT[name]


def test_every_node_is_in_the_category(nodes):
    assert {info["category"] for info in nodes.values()} == {"RLG"}


def test_every_node_is_found_by_other_words(server, nodes):
    if "search_aliases" not in server.get("/object_info/KSampler")["KSampler"]:
        pytest.skip("this release knows no search aliases")
    assert [name for name, info in nodes.items() if not info["search_aliases"]] == []
    found = {word: {name for name, info in nodes.items() if word in info["search_aliases"]} for word in WORDS}
    assert [word for word, names in found.items() if "RLGApply" not in names] == []


def test_rare_inputs_are_folded(nodes):
    found = {
        name: " ".join(
            key
            for group in ("required", "optional")
            for key, spec in info["input"].get(group, {}).items()
            if spec[1].get("advanced")
        )
        for name, info in nodes.items()
    }
    assert {name: keys for name, keys in found.items() if keys} == ADVANCED


def test_every_input_has_a_tooltip(nodes):
    bare = [
        f"{name}.{key}"
        for name, info in nodes.items()
        for group in ("required", "optional")
        for key, spec in info["input"].get(group, {}).items()
        if len(spec) < 2 or not spec[1].get("tooltip")
    ]
    assert bare == []
