"""The nodes, one file a topic: a schema and one call each."""

from __future__ import annotations

from importlib import import_module

from comfy_api.latest import ComfyExtension, io

TOPICS = (
    "adapter_loader",
    "save_adapter",
    "apply",
    "control",
    "budget",
    "trace",
    "checkpoint_pair",
    "extract_adapter",
    "rewards",
    "sweep",
    "auto_scale",
    "implicit_reward",
)
NODES: list[type[io.ComfyNode]] = [node for topic in TOPICS for node in import_module(f".{topic}", __name__).NODES]


class RLGExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> RLGExtension:
    return RLGExtension()
