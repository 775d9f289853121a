"""Nothing stays behind: interrupts, errors, other graphs, unloading; nothing is reloaded; equal graphs, equal bits."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from support import leftovers, tiny
from support.guiding import guide
from support.sampling import Sampling, counted_calls
from support.tensors import cloned, largest, random

SETTINGS = Sampling(steps=4)


@pytest.fixture(scope="module")
def models(host):
    return tiny.sd3_pair(host)


@pytest.fixture(scope="module")
def plain(host, models):
    return SETTINGS.run(host, models[0])


def clean(host, model, plain, factor) -> None:
    """No module is patched, the base is as it was, and the pack holds nothing of a run."""
    leftovers.assert_none(host, model, factor=factor)
    assert torch.equal(SETTINGS.run(host, model), plain)


@pytest.mark.parametrize("step", range(4))
def test_interrupted_at_a_step(host, models, plain, step):
    interruption = host.comfy.model_management.InterruptProcessingException
    factor = models[0].model.memory_usage_factor

    def callback(current, denoised, x, steps):
        if current == step:
            raise interruption

    guided = guide(host, *models, 2.0)
    expected = SETTINGS.run(host, guided)
    with pytest.raises(interruption):
        SETTINGS.run(host, guided, callback)
    clean(host, models[0], plain, factor)
    assert torch.equal(SETTINGS.run(host, guided), expected)


@pytest.mark.parametrize("call", [1, 2, 3, 5])
def test_an_error_inside_the_model(host, models, plain, call):
    """In the batched call, in each call of the check, and in a later step: no model error passes for folded rows."""
    guided, factor = guide(host, *models, 2.0 + call / 10), models[0].model.memory_usage_factor
    count = 0

    def fail(args, extra):
        nonlocal count
        count += 1
        if count >= call:
            raise ValueError("inside the model")
        return extra["original_block"](args)

    guided.set_model_patch_replace(fail, "dit", "double_block", 1)
    with pytest.raises(ValueError, match="inside the model"):
        SETTINGS.run(host, guided)
    clean(host, models[0], plain, factor)


def test_switching_graphs(host, models, plain):
    model, rl_model = models
    first = SETTINGS.run(host, guide(host, model, rl_model, 2.0))
    plain_rl = SETTINGS.run(host, rl_model)
    assert torch.equal(SETTINGS.run(host, model), plain)
    assert torch.equal(SETTINGS.run(host, guide(host, model, rl_model, 2.0)), first)
    assert torch.equal(SETTINGS.run(host, rl_model), plain_rl)


def test_unloading_all_models(host, models, plain):
    guided, factor = guide(host, *models, 2.0), models[0].model.memory_usage_factor
    first = SETTINGS.run(host, guided)
    host.comfy.model_management.unload_all_models()
    assert torch.equal(SETTINGS.run(host, guided), first)
    host.comfy.model_management.unload_all_models()
    clean(host, models[0], plain, factor)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0])
def test_equal_graphs_are_equal_to_the_bit(host, scale):
    """The run that checks the batch, the next one, another node, and a freshly loaded model."""
    results = []
    for _ in range(2):
        model, rl_model = tiny.sd3_pair(host)
        guided = guide(host, model, rl_model, scale)
        results += [
            SETTINGS.run(host, guided),
            SETTINGS.run(host, guided),
            SETTINGS.run(host, guide(host, model, rl_model, scale)),
        ]
    assert all(torch.equal(result, results[0]) for result in results)


def test_turning_the_scale_reloads_nothing(host, models, monkeypatch):
    """To and from 0 and 1 too: no weight is moved or patched, the same storage, the same terms."""
    model, rl_model = models
    SETTINGS.run(host, guide(host, model, rl_model, 2.0))
    places = {name: value.data_ptr() for name, value in model.model.state_dict().items()}
    bank = host.module("nodes.host.models.relation").relate(model, rl_model).bank
    terms = {name: value.data_ptr() for name, value in bank.state_dict().items()}
    loaded = {id(loaded.model.model) for loaded in host.comfy.model_management.current_loaded_models}
    patcher, patched = host.comfy.model_patcher.ModelPatcher, []
    original = patcher.patch_weight_to_device
    monkeypatch.setattr(
        patcher, "patch_weight_to_device", lambda *args, **named: (patched.append(args[1]), original(*args, **named))[1]
    )
    for scale in (0.0, 2.0, 1.0, 0.0, 1.0, 3.0, -1.0):
        SETTINGS.run(host, guide(host, model, rl_model, scale))
        assert {name: value.data_ptr() for name, value in model.model.state_dict().items()} == places
        assert {name: value.data_ptr() for name, value in bank.state_dict().items()} == terms
    assert host.module("nodes.host.models.relation").relate(model, rl_model).bank is bank
    assert {id(loaded.model.model) for loaded in host.comfy.model_management.current_loaded_models} == loaded
    assert not patched
    assert not model.backup and not rl_model.backup


def test_weights_are_never_written(host, models):
    model, rl_model = models
    before = cloned(model.model.state_dict())
    for scale in (0.0, 1.0, 2.0):
        SETTINGS.run(host, guide(host, model, rl_model, scale))
    assert all(torch.equal(before[name], value) for name, value in model.model.state_dict().items())


def test_memory_comes_back(host):
    """With the graph gone, its terms, models and runs die; the host reports no leak."""
    model, rl_model = tiny.sd3_pair(host)
    guided = guide(host, model, rl_model, 2.0)
    SETTINGS.run(host, guided)
    source = host.module("nodes.host.run.record").record_of(guided).experts[0].relation
    bank, base = weakref.ref(source.bank), weakref.ref(model.model)
    del source, guided
    gc.collect()
    host.comfy.model_management.cleanup_models_gc()
    SETTINGS.run(host, model)
    del rl_model
    gc.collect()
    assert bank() is None
    del model
    gc.collect()
    host.comfy.model_management.cleanup_models_gc()
    host.comfy.model_management.unload_all_models()
    gc.collect()
    assert base() is None


def test_a_run_leaves_no_run_behind(host, models):
    run_class = host.module("nodes.host.run.run").Run
    SETTINGS.run(host, guide(host, *models, 2.0))
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is run_class]


def changed(model):
    """A clone with one weight changed."""
    clone = model.clone()
    clone.add_patches(
        {"diffusion_model.joint_blocks.0.x_block.attn.proj.weight": ("diff", (random(128, 128, size=0.05),))}
    )
    return clone


def test_rows_that_add_up_to_one_skip_the_base(host, models):
    """Two experts at 0.3 and 0.7: the base counts nothing and does not run."""
    model, rl_model = models
    other = changed(rl_model)
    stacked = guide(host, guide(host, model, rl_model, 0.3), other, 0.7)
    SETTINGS.run(host, stacked)
    with counted_calls(model) as calls:
        SETTINGS.run(host, stacked)
    assert calls == [4] * 4
    single = guide(host, guide(host, model, rl_model, 0.0), other, 1.0)
    with counted_calls(model) as calls:
        assert torch.equal(SETTINGS.run(host, single), SETTINGS.run(host, guide(host, model, other, 1.0)))
    assert calls == [2] * 8


def test_the_order_of_stacking_does_not_matter(host, models):
    model, rl_model = models
    other = changed(model)
    one = guide(host, guide(host, model, rl_model, 1.5), other, 0.8)
    two = guide(host, guide(host, model, other, 0.8), rl_model, 1.5)
    first, second = SETTINGS.run(host, one), SETTINGS.run(host, two)
    assert largest(first, second) < 5e-5
    assert largest(first, SETTINGS.run(host, guide(host, model, rl_model, 1.5))) > 1e-2


def test_clones_do_not_share_what_later_nodes_add(host, models):
    model, rl_model = models
    guided = guide(host, model, rl_model, 1.5)
    alone = SETTINGS.run(host, guided)
    guide(host, guided, rl_model, 3.0)
    assert torch.equal(SETTINGS.run(host, guided), alone)
    assert host.module("nodes.host.run.record").record_of(model) is None


def test_memory_is_estimated_for_all_rows(host, models):
    """The host decides on batching and offloading by rows it knows of: base and RL rows count."""
    model, rl_model = models
    factor, seen = model.model.memory_usage_factor, []
    for scale in (0.0, 1.0, 2.0):
        guided = guide(host, model, rl_model, scale)
        SETTINGS.run(host, guided, lambda *args: seen.append(model.model.memory_usage_factor / factor))
    assert seen == [1.0] * 8 + [2.0] * 4
