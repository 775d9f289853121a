"""Batched passes against separate ones: low precisions, and models in which rows cannot be told apart."""

from __future__ import annotations

import logging

import pytest
import torch

from support import tiny
from support.guiding import guide, two_passes
from support.sampling import Sampling, counted_calls
from support.tensors import largest, rms

DTYPES = [torch.float16, torch.bfloat16, torch.float8_e4m3fn]
LIMIT = 0.25
"""Of the effect of the guidance: what rounding may change of a picture."""


@pytest.fixture(scope="module")
def sd3(host):
    return tiny.sd3_transformer(depth=3), tiny.sd3_lora(depth=3)


def pair_in(host, sd3, dtype):
    transformer, lora = sd3
    model = tiny.load(host, transformer, dtype)
    return model, tiny.with_lora(host, model, lora)


@pytest.fixture
def separate(host, monkeypatch):
    """A switch: from its call on, base and RL rows never run in one batch."""
    passes = host.module("nodes.host.run.passes").Passes
    return lambda: monkeypatch.setattr(passes, "fits", lambda *args: False)


@pytest.fixture
def log(host, caplog):
    caplog.set_level(logging.WARNING)
    return lambda: [record.message for record in caplog.records if record.message.startswith("RLG")]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_low_precision(host, sd3, dtype, separate, log):
    settings = Sampling(steps=4)
    exact_model, exact_rl = pair_in(host, sd3, torch.float32)
    exact = settings.run(host, guide(host, exact_model, exact_rl, 2.0))
    effect = rms(exact - settings.run(host, exact_model))

    model, rl_model = pair_in(host, sd3, dtype)
    assert model.model.get_dtype() == dtype
    guided = guide(host, model, rl_model, 2.0)
    with counted_calls(guided) as calls:
        first = settings.run(host, guided)
        batched = settings.run(host, guided)
    assert calls[-4:] == [4] * 4, "rows were taken for mixed up"
    assert not log()
    assert torch.equal(first, batched)
    separate()
    assert rms(batched - settings.run(host, guided)) < LIMIT / 4 * effect
    assert rms(batched - exact) < LIMIT * effect
    assert torch.equal(settings.run(host, guide(host, model, rl_model, 0.0)), settings.run(host, model))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_low_precision_of_the_rl_model_alone(host, sd3, dtype):
    """At scale 1 the terms beside the weights round otherwise than the merged weights, not more."""
    settings = Sampling(steps=4)
    exact = settings.run(host, pair_in(host, sd3, torch.float32)[1])
    model, rl_model = pair_in(host, sd3, dtype)
    ours = rms(settings.run(host, guide(host, model, rl_model, 1.0)) - exact)
    merged = rms(settings.run(host, rl_model) - exact)
    assert ours < 2 * merged


# Rows that cannot be told apart


def guided_and_reference(host, sd3):
    """A guided model, and the combination of two plain models with weights of their own."""
    (model, rl_model), (_, rl_copy) = (pair_in(host, sd3, torch.float32) for _ in range(2))
    return guide(host, model, rl_model, 2.0), two_passes(host, model, rl_copy, 2.0)


def with_block(model, fold):
    """A clone whose second block runs as `fold` has it."""
    clone = model.clone()
    clone.set_model_patch_replace(lambda args, extra: fold(extra["original_block"], args), "dit", "double_block", 1)
    return clone


def unchanged(block, args):
    return block(args)


def averaged(block, args):
    """Every picture of the batch attends to the average of all, as packs for consistent batches have it."""
    out = block({**args, "img": (args["img"] + args["img"].mean(0, keepdim=True)) / 2})
    return {"txt": out["txt"], "img": out["img"]}


def permuted(block, args):
    """The rows in another order inside the block."""
    out = block({name: value.flip(0) if isinstance(value, torch.Tensor) else value for name, value in args.items()})
    return {name: value.flip(0) for name, value in out.items()}


def packed(block, args):
    """All rows as one long sequence, as samplers of variable lengths have it."""

    def fold(x):
        return x.reshape(1, -1, x.shape[-1])

    out = block({**args, "img": fold(args["img"]), "txt": fold(args["txt"]), "vec": args["vec"].mean(0, keepdim=True)})
    return {"txt": out["txt"].reshape(args["txt"].shape), "img": out["img"].reshape(args["img"].shape)}


def two_rows_only(block, args):
    """A batch size that is built in."""
    if len(args["img"]) != 2:
        raise RuntimeError(f"expected 2 rows, got {len(args['img'])}")
    return block(args)


def lost_behind(block, args):
    """Kernels that cannot count that far leave no numbers in the last rows."""
    out = block(args)
    return {name: torch.cat([value[:2], value[2:] * torch.nan]) for name, value in out.items()}


def lost_in_front(block, args):
    out = block(args)
    return {name: torch.cat([value[:-2] * torch.nan, value[-2:]]) for name, value in out.items()}


FOLDS = [averaged, permuted, packed, two_rows_only, lost_behind, lost_in_front]


@pytest.mark.parametrize("fold", FOLDS, ids=lambda fold: fold.__name__)
def test_falls_back_to_separate_passes_and_says_so_once(host, sd3, fold, log):
    settings = Sampling(steps=3)
    guided, reference = guided_and_reference(host, sd3)
    guided, expected = with_block(guided, fold), settings.run(host, with_block(reference, fold))
    for _ in range(2):
        with counted_calls(guided) as calls:
            assert largest(settings.run(host, guided), expected) < 5e-5
    assert calls == [2, 2] * 3
    assert len(log()) == 1
    assert "separate passes" in log()[0]


def test_rows_stay_together_where_a_patch_leaves_them_apart(host, sd3, log):
    settings = Sampling(steps=2)
    guided = with_block(guide(host, *pair_in(host, sd3, torch.float32), 2.0), unchanged)
    settings.run(host, guided)
    with counted_calls(guided) as calls:
        settings.run(host, guided)
    assert calls == [4] * 2
    assert not log()


@pytest.mark.parametrize("first", [1, 3], ids=["in the check", "in a later step"])
def test_out_of_memory(host, sd3, log, first):
    """The rest of the run takes separate passes; the next run tries again."""
    settings = Sampling(steps=3)
    guided = guide(host, *pair_in(host, sd3, torch.float32), 2.0)
    expected, batches = settings.run(host, guided), []

    def tight(block, args):
        if len(args["img"]) == 4:
            batches.append(4)
            if full and len(batches) >= first:
                raise torch.cuda.OutOfMemoryError("no room")
        return block(args)

    guided = with_block(guided, tight)
    full = True
    assert largest(settings.run(host, guided), expected) < 5e-5
    assert len(batches) == first
    assert len(log()) == 1 and "no room" in log()[0]
    full = False
    batches.clear()
    assert largest(settings.run(host, guided), expected) < 5e-5
    assert batches == [4] * 3


def test_a_patch_that_changes_between_runs_is_checked_anew(host, sd3, log):
    """Two patches of one name: the second one mixes rows, the first one did not."""
    settings = Sampling(steps=2)
    guided, reference = guided_and_reference(host, sd3)
    for fold in (unchanged, averaged):
        expected = settings.run(host, with_block(reference, fold))
        assert largest(settings.run(host, with_block(guided, fold)), expected) < 5e-5
