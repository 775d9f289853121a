"""The real ComfyUI in this process, with the pack loaded by the host's own loader as one of its custom nodes."""

from __future__ import annotations

import asyncio
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch

from . import accelerator

DEVICE = "RLG_DEVICE"
"""The environment variable that asks for a device, `npu`."""

REPOSITORY = Path(__file__).resolve().parents[2]


def start_host(root: Path) -> SimpleNamespace:
    """Imports the host at `root` and loads the pack into it; returns the host's modules and the nodes it has."""
    host = import_host(root)
    host.pack = load_pack(host)
    host.classes = host.nodes.NODE_CLASS_MAPPINGS
    host.module = lambda name: import_module(f"{host.pack.__name__}.{name}")
    return host


@cache
def this_host() -> SimpleNamespace | None:
    """The host that RLG_HOST_PATH names, started once; None where it names none."""
    root = os.environ.get("RLG_HOST_PATH")
    if not root:
        return None
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return start_host(Path(root))


def import_host(root: Path) -> SimpleNamespace:
    """Imports the host at `root`, on the CPU where there is no GPU, and its own extra nodes."""
    leave_repository()
    sys.path.insert(0, str(root))
    import_module("utils.extra_config")  # as the host's main does first: another `utils` comes into its path later
    import comfy.cli_args

    with _device(comfy.cli_args.args):
        import comfy.model_management  # asks once for the devices there are
    import comfy.samplers
    import comfy.sd
    import folder_paths

    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())
    return SimpleNamespace(comfy=comfy, nodes=nodes, folder_paths=folder_paths)


@contextmanager
def _device(arguments: Namespace) -> Iterator[None]:
    """Has the host find the device of `accelerator` where that is asked for; else a GPU, or the CPU without one."""
    if os.environ.get(DEVICE) != accelerator.NAME:
        arguments.cpu = not torch.cuda.is_available()
        yield
        return
    accelerator.install()
    arguments.force_fp32 = True  # what the host would compute on the CPU
    with accelerator.found_by_the_host():
        yield


def load_pack(host: SimpleNamespace) -> ModuleType:
    """Has the host load the pack; returns the pack's module."""
    loaded = asyncio.run(host.nodes.load_custom_node(str(REPOSITORY), module_parent="custom_nodes"))
    assert loaded, "the host could not load the pack"
    file = str(REPOSITORY / "__init__.py")
    return next(module for module in list(sys.modules.values()) if getattr(module, "__file__", None) == file)


def leave_repository() -> None:
    """Takes the repository's root off `sys.path`, where `python -m` put it.

    Its `nodes` package would hide the host's `nodes.py`; and product code that imports `rlg_core` absolutely, which
    fails in a user's ComfyUI, would pass.
    """
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != REPOSITORY]


@contextmanager
def repository_on_path() -> Iterator[None]:
    """Lets `bench` and `demo` be imported beside the host.

    The repository's root comes last, and only for as long as the context lasts: see `leave_repository`.
    """
    sys.path.append(str(REPOSITORY))
    try:
        yield
    finally:
        leave_repository()
