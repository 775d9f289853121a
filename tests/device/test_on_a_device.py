"""RLG where the model computes on a device of its own: what waits, what is copied, what memory is taken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from support import tiny
from support.accelerator import CAPACITY, NAME, counts, generators, memories
from support.guiding import guide, run_node, stock_node
from support.sampling import Sampling, counted_calls
from support.tensors import largest, rms

STEPS = 4
SETTINGS = Sampling(steps=STEPS)


@pytest.fixture(scope="module")
def models(host) -> dict[str, Any]:
    """A model by itself, and under RLG in each way."""
    model, rl_model = tiny.sd3_pair(host)
    checkpoint = tiny.sd3_pair(host)[1]
    guided = guide(host, model, rl_model)
    return {
        "plain": model,
        "adapter": guided,
        "sequential": budgeted(host, guided, batching="sequential"),
        "linearised": budgeted(host, guided, evaluate="linearised"),
        "checkpoint": guide(host, model, checkpoint),
    }


def budgeted(host, guided, evaluate="exact", batching="auto"):
    return run_node(host, "RLGBudget", guided, evaluate, 1, 0.0, batching)[0]


def counted(host: SimpleNamespace, model: Any) -> tuple[torch.Tensor, dict[str, int]]:
    """The latent of a second run, and what the device counted in it."""
    SETTINGS.run(host, model)
    counts.clear()
    return SETTINGS.run(host, model), dict(counts)


@pytest.mark.parametrize("way", ["adapter", "sequential", "linearised", "checkpoint"])
def test_nothing_waits_for_the_device_that_does_not_wait_without_rlg(host, models, way):
    _, plain = counted(host, models["plain"])
    _, found = counted(host, models[way])
    assert found["waits"] == plain["waits"]
    assert found["launches"] > plain["launches"]


def test_a_window_makes_the_processor_wait_once_per_call(host, models):
    """It reads the call's sigma."""
    model = models["plain"]
    rl_model = tiny.with_lora(host, model, tiny.sd3_lora())
    found, expected = (counted(host, guide(host, model, rl_model, 2.0, start))[1]["waits"] for start in (0.1, 0.0))
    assert found == expected + STEPS


@pytest.mark.parametrize(("way", "copies"), [("adapter", 1), ("linearised", 1), ("sequential", 2), ("checkpoint", 2)])
def test_streamed_weights_are_copied_once_for_all_rows(host, models, way, copies):
    size, latents = models["plain"].model_size(), [SETTINGS.run(host, models[name]) for name in ("plain", way)]
    host.comfy.model_management.unload_all_models()
    memories[0].capacity = int(host.comfy.model_management.minimum_inference_memory())  # no room for weights
    (streamed, plain), (guided, found) = (counted(host, models[name]) for name in ("plain", way))
    assert torch.equal(streamed, latents[0]) and torch.equal(guided, latents[1])
    assert plain["uploaded"] > STEPS * 0.9 * size, "the weights are not streamed"
    assert found["uploaded"] == pytest.approx(copies * plain["uploaded"], abs=STEPS * copies * 0.03 * size)


@pytest.mark.parametrize(("way", "copies"), [("adapter", 1.03), ("sequential", 1.03), ("checkpoint", 2.03)])
def test_the_device_holds_one_copy_of_each_set_of_weights(host, models, way, copies):
    SETTINGS.run(host, models["plain"])
    plain, used = memories[0].used(), []
    for _ in range(10):
        SETTINGS.run(host, models[way])
        used.append(memories[0].used())
    assert plain < used[0] < copies * plain
    assert len(set(used)) == 1, "memory grows"


def test_a_pass_that_finds_no_memory_is_split_and_comes_back(host, models):
    """With just the memory for the separate passes: nothing of the failed one may be left in it."""
    batched, sequential = (budgeted(host, models["adapter"], batching=way) for way in ("batched", "sequential"))
    expected = SETTINGS.run(host, batched)
    memories[0].capacity = least_memory(host, sequential)
    with counted_calls(models["plain"]) as rows:
        found = SETTINGS.run(host, batched)
    # So little that the host runs the prompts one by one: each is tried once.
    assert rows == 2 * [2, 1, 1] + (STEPS - 1) * [1, 1, 1, 1]
    assert largest(found, expected) < 1e-5 * rms(expected)
    memories[0].capacity = CAPACITY
    host.comfy.model_management.unload_all_models()
    with counted_calls(models["plain"]) as rows:
        assert torch.equal(SETTINGS.run(host, batched), expected)
    assert rows == [4] * STEPS


def least_memory(host: SimpleNamespace, model: Any) -> int:
    """The bytes with which `model` just runs."""
    short, enough = 2**18, 2**21
    while enough - short > 2**12:
        memories[0].capacity = middle = (short + enough) // 2
        try:
            SETTINGS.run(host, model)
            enough = middle
        except torch.OutOfMemoryError:
            short = middle
    return enough


def test_an_error_that_is_not_the_batchs_leaves_the_next_run_batched(host, models):
    """All models leave the device in the middle of a run, which stops the host's own runs too."""
    expected = SETTINGS.run(host, models["adapter"])

    def evict(step, *args):
        if step == 1:
            host.comfy.model_management.unload_all_models()

    for way in ("plain", "adapter"):
        with pytest.raises(RuntimeError, match="same device"):
            SETTINGS.run(host, models[way], evict)
    assert torch.equal(SETTINGS.run(host, models["adapter"]), expected)


def test_models_meet_wherever_their_tables_are(host):
    """The host moves the tables of a model that runs, and those of its clone stay where they are."""
    base, tuned = tiny.sd3_pair(host)
    model, rl_model, other = (
        stock_node(host, "ModelSamplingSD3", model=m, shift=shift)
        for m, shift in ((base, 2.0), (tuned, 2.0), (tuned, 3.0))
    )
    SETTINGS.run(host, model)
    places = {m.get_model_object("model_sampling").sigmas.device.type for m in (model, rl_model)}
    assert places == {"cpu", NAME}
    assert rms(SETTINGS.run(host, guide(host, model, rl_model)) - SETTINGS.run(host, model)) > 1e-2
    with pytest.raises(ValueError, match=r"model_sampling: shift 2\.0 and 3\.0"):
        guide(host, model, other)


# Two devices


@pytest.fixture(scope="module")
def apart(host, tmp_path_factory) -> tuple[Any, Any, Any]:
    """A model, an RL model on the same weights, and one that Select Model Device has put on the second device."""
    folder = tmp_path_factory.mktemp("models")
    names = host.folder_paths.folder_names_and_paths["diffusion_models"][0]
    names.append(str(folder))
    model, _ = tiny.sd3_pair(host)
    save_file(tiny.weights_of(model), folder / "model.safetensors")

    def loaded():
        return stock_node(host, "UNETLoader", unet_name="model.safetensors", weight_dtype="default")

    model = loaded()
    own = stock_node(host, "SelectModelDevice", model=loaded(), device="gpu:1")
    yield model, *(tiny.with_lora(host, m, tiny.sd3_lora()) for m in (model, own))
    names.remove(str(folder))


@pytest.mark.parametrize("settings", [SETTINGS, Sampling(steps=2, cfg=1.0, sampler="heun"), Sampling(2, seed=9)])
def test_an_rl_model_on_a_device_of_its_own(host, apart, settings):
    model, rl_model, elsewhere = apart
    for scale in (1.0, 2.0):
        expected, found = (settings.run(host, guide(host, model, m, scale)) for m in (rl_model, elsewhere))
        assert largest(found, expected) < 1e-4 * rms(expected)
    assert all(memory.used() >= model.model_size() for memory in memories)


def test_select_model_device_after_rlg(host, apart):
    model, rl_model, elsewhere = apart
    for other, device in ((rl_model, 0), (elsewhere, 1)):  # the host leaves what it cannot copy, and logs that
        guided = guide(host, model, other)
        moved = stock_node(host, "SelectModelDevice", model=guided, device="gpu:1")
        assert moved.load_device == torch.device(NAME, device)
        assert largest(SETTINGS.run(host, moved), SETTINGS.run(host, guided)) < 1e-4


def drawing(model: Any) -> Any:
    """Changes the activations by random numbers of the device, as merging of tokens at random places does."""

    def patch(args, extra):
        noise = 0.2 * torch.randn(1, args["img"].shape[1], 1, device=args["img"].device)
        return extra["original_block"]({**args, "img": args["img"] * (1 + noise)})

    clone = model.clone()
    clone.set_model_patch_replace(patch, "dit", "double_block", 1)
    return clone


@pytest.mark.parametrize(
    ("scale", "rl_cfg", "start_percent"), [(2.0, 0.0, 0.0), (1.0, 0.0, 0.0), (2.0, 1.5, 0.0), (2.0, 0.0, 0.4)]
)
def test_base_and_rl_model_draw_the_same_numbers_on_their_devices(host, apart, scale, rl_cfg, start_percent):
    """Also where the RL model alone draws, on its own device."""
    model, rl_model, elsewhere = apart

    def guided(rl):
        return guide(host, model, rl, scale, start_percent, branch=run_node(host, "RLGBranch", rl_cfg, 1.0, 1.0)[0])

    latents, after = [], []
    for rl in (rl_model, elsewhere):
        generators[0].manual_seed(5)
        generators[1].manual_seed(6)
        latents.append(SETTINGS.run(host, drawing(guided(rl))))
        after.append([generator.get_state() for generator in generators])
    assert largest(*latents) < 1e-4
    assert torch.equal(after[0][0], after[1][0])
    assert torch.equal(after[1][1], torch.Generator().manual_seed(6).get_state())
    assert largest(latents[0], SETTINGS.run(host, guided(rl_model))) > 1e-2


def test_a_model_split_over_devices_is_refused(host, apart):
    """MultiGPU runs clones that do not get what the RL model changes."""
    model, rl_model, elsewhere = apart
    with pytest.raises(RuntimeError, match="the terms of an RL adapter cannot be copied to other devices"):
        split(host, guide(host, model, rl_model))
    before = split(host, model)
    for guided in (split(host, guide(host, model, elsewhere)), guide(host, before, elsewhere)):
        with pytest.raises(ValueError, match="RLG does not run split over several GPUs"):
            SETTINGS.run(host, guided)


def split(host: SimpleNamespace, model: Any) -> Any:
    return stock_node(host, "MultiGPU_WorkUnits", model=model, max_gpus=2)
