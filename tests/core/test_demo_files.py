"""What the demo ships: sizes, layouts and logs."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

DEMO = Path(__file__).resolve().parents[2] / "demo"
ADAPTERS = sorted((DEMO / "models" / "loras" / "rlg-demo").glob("rl-*"))
REWARDS = ("brightness", "jpeg", "composition")


def keys(path):
    with safe_open(path, "pt") as file:
        return set(file.keys())


def test_weights_fit_into_25_megabytes():
    files = [p for p in (DEMO / "models").rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 25_000_000


def test_there_is_an_adapter_for_each_reward():
    assert {f"rl-{reward}" for reward in REWARDS} <= {p.name for p in ADAPTERS}


@pytest.mark.parametrize("folder", ADAPTERS, ids=lambda p: p.name)
def test_adapters_are_peft_folders_with_their_own_alpha(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["lora_alpha"] != config["r"]
    modules = {k.rsplit(".lora_", 1)[0] for k in keys(folder / "adapter_model.safetensors")}
    assert len(modules) == 3 * 8 - 1  # the last block has no to_add_out


def test_full_checkpoint_has_the_layout_of_the_base():
    folder = DEMO / "models" / "diffusion_models"
    assert keys(folder / "rlg-demo-full-rl.safetensors") == keys(folder / "rlg-demo-base.safetensors")


@pytest.mark.parametrize("log", sorted((DEMO / "logs").glob("rl-*.json")), ids=lambda p: p.stem)
def test_logs_say_how_a_run_was_made_and_what_came_out(log):
    run = json.loads(log.read_text())
    assert run["settings"]["beta"] > 0 and len(run["rows"]) == run["settings"]["iterations"]
    assert [row["scale"] for row in run["sweep"]] == [0.0, 0.5, 1.0, 1.5, 2.0, 3.0]


@pytest.mark.parametrize("reward", REWARDS)
def test_what_is_claimed_holds_for_every_seed(reward):
    """The reward rises with the scale from 0 past 1 to 2, for each training seed."""
    logs = sorted((DEMO / "logs").glob(f"rl-{reward}*.json"))
    assert len(logs) >= 3
    for log in logs:
        curve = [row[reward] for row in json.loads(log.read_text())["sweep"] if row["scale"] <= 2]
        assert curve == sorted(curve) and curve[-1] > curve[0], log.name
