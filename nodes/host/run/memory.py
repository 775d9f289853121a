"""Room on the device for base and expert rows in one pass, by the host's own estimates."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from comfy.model_base import BaseModel

from ..compat import free_memory
from .calls import ModelCall

log = logging.getLogger(__name__)


@contextmanager
def counted(model: BaseModel, times: int) -> Iterator[None]:
    """Makes the host's memory estimates for `model` count its rows `times` over, while the context lasts."""
    factor = model.memory_usage_factor
    model.memory_usage_factor = factor * times
    try:
        yield
    finally:
        model.memory_usage_factor = factor


def missing_room(model: BaseModel, call: ModelCall) -> str | None:
    """Why the rows of all roles do not fit at once by the host's estimate, inside `counted`; None if they do."""
    if call.x.device.type == "cpu":
        return None
    required, free = model.memory_required(list(call.x.shape)), free_memory(model, call.x.device)
    if required < free:
        return None
    return f"all rows at once need {required / 2**20:.0f} MB, {free / 2**20:.0f} MB are free"
