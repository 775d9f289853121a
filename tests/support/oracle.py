"""Two wholly separate models as one: what RLG must equal in every graph, whatever other nodes keep or draw."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


def two_models(host: SimpleNamespace, model: Any, rl_model: Any, scale: float) -> Any:
    """`model` whose conditionings are answered by `base + scale (rl - base)`, below CFG.

    `rl_model` has weights of its own and whatever nodes were put on it: patches, caches and function wrappers with a
    state of their own. Both see the same random numbers.
    """
    assert rl_model.model is not model.model
    extension = host.comfy.patcher_extension

    def combine(executor, network, conds, x, timestep, model_options):
        before = generators()
        base = executor(network, conds, x, timestep, model_options)
        after = generators()
        set_generators(before)
        rl_model.pre_run()
        options = own_options(host, rl_model, model_options)
        rl = host.comfy.samplers._calc_cond_batch(rl_model.model, conds, x, timestep, options)
        set_generators(after)
        return [b + scale * (r - b) for b, r in zip(base, rl)]

    clone = model.clone()
    clone.add_wrapper_with_key(extension.WrappersMP.CALC_COND_BATCH, "oracle", combine)
    clone.set_additional_models("oracle", [rl_model])
    return clone


def own_options(host: SimpleNamespace, rl_model: Any, model_options: dict) -> dict:
    """The RL model's own options, with what a run adds to its model's."""
    options = host.comfy.model_patcher.create_model_options_clone(rl_model.model_options)
    options["transformer_options"]["sample_sigmas"] = model_options["transformer_options"]["sample_sigmas"]
    return options


def generators() -> tuple:
    """The state of every generator that a node may draw from."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def set_generators(state: tuple) -> None:
    torch.set_rng_state(state[0])
    random.setstate(state[1])
    np.random.set_state(state[2])
