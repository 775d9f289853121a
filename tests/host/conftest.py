"""The real ComfyUI in this process, and tiny real models in it.

`RLG_HOST_PATH` names the host's folder. The pack is loaded by the host's own loader, as one of its custom nodes.
"""

from __future__ import annotations

import asyncio
import os
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

PACK = Path(__file__).resolve().parents[2]


def start_host(root: Path) -> SimpleNamespace:
    """Imports the host at `root` on the CPU and has it load the pack; returns its modules and the pack's nodes."""
    sys.path[:] = [str(root), *[p for p in sys.path if Path(p or ".").resolve() != PACK]]
    import_module("utils.extra_config")  # as the host's main does first: another `utils` comes into its path later
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    import comfy.samplers
    import comfy.sd
    import folder_paths

    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())
    assert asyncio.run(nodes.load_custom_node(str(PACK), module_parent="custom_nodes")), (
        "the host could not load the pack"
    )
    pack = next(m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == str(PACK / "__init__.py"))
    return SimpleNamespace(
        comfy=comfy,
        nodes=nodes,
        folder_paths=folder_paths,
        pack=pack,
        classes=nodes.NODE_CLASS_MAPPINGS,
        module=lambda name: sys.modules[f"{pack.__name__}.{name}"],
    )


@pytest.fixture(scope="session")
def host() -> SimpleNamespace:
    root = os.environ.get("RLG_HOST_PATH")
    if not root:
        pytest.skip("RLG_HOST_PATH names no ComfyUI")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return start_host(Path(root))
