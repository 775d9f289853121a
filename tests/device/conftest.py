"""The host that RLG_HOST_PATH names, in this process, with a second device (see `support.accelerator`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from support import accelerator
from support.host import DEVICE, leave_repository, this_host

if accelerator.is_possible():  # else the tests here are skipped, and those of other lanes run on the CPU
    os.environ[DEVICE] = accelerator.NAME  # the host asks for devices when it is imported
leave_repository()


@pytest.fixture(scope="session")
def host() -> SimpleNamespace:
    if not accelerator.is_possible():
        pytest.skip("this torch has no devices that are made in Python")
    return this_host() or pytest.skip("RLG_HOST_PATH names no ComfyUI")


@pytest.fixture(autouse=True)
def whole_memory(host) -> Iterator[None]:
    """Every test begins with nothing on the devices, and leaves them with all their memory."""
    unload(host)
    yield
    for memory in accelerator.memories:
        memory.capacity = accelerator.CAPACITY
    unload(host)


def unload(host: SimpleNamespace) -> None:
    host.comfy.model_management.unload_all_models()
    host.comfy.model_management.cleanup_models()
