"""RLG on a model through its node, the reference it is compared with, and calls of the host's nodes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest


def run_node(host: SimpleNamespace, name: str, *values: Any, **inputs: Any) -> tuple:
    """Every output of one of the pack's nodes."""
    return host.classes[name].execute(*values, **inputs).result


def stock_node(host: SimpleNamespace, name: str, **inputs: Any) -> Any:
    """The first output of a node of either API; skips where the host has no such node."""
    cls = host.classes.get(name)
    if cls is None:
        pytest.skip(f"this host has no {name}")
    function = cls.execute if hasattr(cls, "execute") else getattr(cls(), cls.FUNCTION)
    result = function(**inputs)
    return getattr(result, "result", result)[0]


def guide(
    host: SimpleNamespace,
    model: Any,
    rl_model: Any,
    scale: float = 2.0,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    outside_scale: float = 1.0,
    rescale: float = 0.0,
    **optional: Any,
) -> Any:
    """`model` behind the node Reinforcement Learning Guidance."""
    window = (start_percent, end_percent, outside_scale)
    return run_node(host, "RLGApply", model, rl_model, scale, *window, rescale, **optional)[0]


def two_passes(host: SimpleNamespace, model: Any, rl_model: Any, scale: float) -> Any:
    """The reference: `model` with each call answered by `base + scale (rl - base)`, from two plain evaluations.

    `rl_model` must have weights of its own (a second load): nothing is shared, switched or batched.
    """
    assert rl_model.model is not model.model

    def combine(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds):
        base = executor(x, t, c_concat, c_crossattn, fresh(control), transformer_options, **conds)
        run = type(executor).new_class_executor(
            rl_model.model._apply_model, rl_model.model, executor.wrappers, executor.idx
        )
        rl = run(x, t, c_concat, c_crossattn, fresh(control), transformer_options, **conds)
        return base + scale * (rl - base)

    clone = model.clone()
    clone.add_wrapper_with_key(host.comfy.patcher_extension.WrappersMP.APPLY_MODEL, "reference", combine)
    clone.set_additional_models("reference", [rl_model])
    return clone


def fresh(control: dict[str, list] | None) -> dict[str, list] | None:
    """A ControlNet's outputs in lists of their own: UNets consume them."""
    return None if control is None else {name: list(outputs) for name, outputs in control.items()}
