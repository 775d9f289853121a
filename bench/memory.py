"""Memory of one way: bytes of all tensors alive, and the peak of the process, each in a child process of its own."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from support.host import repository_on_path

from . import host
from .geometry import Geometry
from .measure import timed
from .pair import Job, Pair
from .ways import Way


@dataclass(frozen=True)
class Memory:
    """Bytes: tensors alive between runs, and those plus what a run adds at its peak."""

    weights: int
    peak: int


def of_ways(geometry: Geometry, ways: Sequence[Way]) -> dict[str, Memory]:
    return {way.name: in_child(_of_way, geometry, way) for way in ways}


def in_child(function: Callable, *arguments: Any, starts_anew: bool = False) -> Any:
    """`function(*arguments)` in a new process.

    It is forked where that is safe, so that the host need not start again, unless it `starts_anew`.
    """
    forks = sys.platform == "linux" and not torch.cuda.is_available() and not starts_anew
    context = multiprocessing.get_context("fork" if forks else "spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, torch.get_num_threads(), function, *arguments))
    with repository_on_path():  # a spawned process imports this module from it
        process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__} failed in a process of its own; its traceback is above.") from None
    finally:
        process.join()


def _answer(pipe: Any, threads: int, function: Callable, *arguments: Any) -> None:
    torch.set_num_threads(threads)
    pipe.send(function(*arguments))


def _of_way(geometry: Geometry, way: Way) -> Memory:
    started = host.start()
    started.comfy.model_management.unload_all_models()  # a fork has those of its parent
    before = live_bytes()
    pair = Pair(started, geometry)
    sample = way.build(pair)
    timed(sample, Job(1))
    for unused in ("lora", "base"):  # a file's content, and what the way itself does not hold
        vars(pair).pop(unused, None)
    weights = live_bytes() - before
    trim()
    resident = device_bytes("VmRSS")
    reset_peak()
    timed(sample, Job(2, scale=1.5))
    return Memory(weights, weights + max(0, device_bytes("VmHWM") - resident))


def live_bytes() -> int:
    """Bytes of all tensors that Python can reach, shared storages once."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors
        if not tensor.is_meta
    }
    return sum(storages.values())


def trim() -> None:
    """Gives memory that nobody uses back to the system, so that the resident size means something."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def device_bytes(field: str) -> int:
    """Memory of the device now (`VmRSS`) or at its peak (`VmHWM`): the card's, or else this process's."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() if field == "VmRSS" else torch.cuda.max_memory_allocated()
    if sys.platform != "linux":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))
