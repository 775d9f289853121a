"""Memory that is free, memory that is given back, and errors that mean that there was none."""

from __future__ import annotations

from contextlib import suppress

import comfy.model_management
import psutil
import torch
from comfy.model_base import BaseModel


def free_memory(model: BaseModel, device: torch.device) -> float:
    """Bytes free on `device`. On 0.30 only the patcher knows which weights could be evicted at once."""
    patcher = model.current_patcher
    return getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)(device)


OUT_OF_MEMORY = torch.cuda.OutOfMemoryError
"""An alias of `torch.OutOfMemoryError`, which torch before 2.5 lacks; the host's own name may be any exception."""

NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""What the messages of torch's other allocators have in common, which raise a plain `RuntimeError` (CPU, MPS, XPU)."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an operation found no memory for its result."""
    return isinstance(error, OUT_OF_MEMORY) or any(words in str(error) for words in NO_MEMORY)


def trim() -> None:
    """Gives memory of the processor that nothing uses back to the system, where the host's psutil can (since 7.2).

    Otherwise glibc keeps what is free between blocks in use: a few hundred MB, once large weights have come and gone
    between small ones that stay.
    """
    give_back = getattr(psutil, "heap_trim", None)
    if give_back is not None:
        with suppress(OSError):
            give_back()
