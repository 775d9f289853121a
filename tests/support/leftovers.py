"""What a run, however it ended, must not leave behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def assert_none(host: SimpleNamespace, *models: Any, factor: float) -> None:
    """No module of these MODELs is patched or hooked, their memory estimates are `factor`, and no run is under way."""
    for model in models:
        modules = dict(model.model.named_modules())
        assert not [name for name, module in modules.items() if "forward" in vars(module)], "patched"
        hooked = [name for name, module in modules.items() if module._forward_hooks or module._forward_pre_hooks]
        assert not hooked, "hooked"
        assert model.model.memory_usage_factor == factor
        assert model.model.current_patcher is None
    assert not dict(host.module("nodes.host.run.wrapper")._running)
