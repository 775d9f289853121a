"""The nodes, one file per topic: a schema and one call each."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import (
    adapter_loader,
    apply,
    auto_scale,
    budget,
    checkpoint_pair,
    control,
    extract_adapter,
    implicit_reward,
    rewards,
    save_adapter,
    sweep,
    trace,
)
from .host.wires import requiring_wires

TOPICS = (
    *(adapter_loader, save_adapter, apply, control, budget, trace, checkpoint_pair, extract_adapter),
    *(rewards, sweep, auto_scale, implicit_reward),
)
NODES: list[type[io.ComfyNode]] = [requiring_wires(node) for topic in TOPICS for node in topic.NODES]


class RLGExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> RLGExtension:
    return RLGExtension()
