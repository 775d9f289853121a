"""Opening an adapter file: seconds and memory beside reading its bytes once. `python -m bench.loading [megabytes]`."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file, save_file

from rlg_core.formats import read_adapter
from rlg_core.formats.container import map_tensors

from .memory import device_bytes, in_child

WIDTH, RANK = 3072, 64
"""FLUX's width, and a rank that people train."""
ROUNDS = 3
BLOCK = 1 << 20


@dataclass(frozen=True)
class Opening:
    """Median seconds of processor time with the file in the system's cache, and the growth of own memory in bytes.

    Pages of the file do not count as own: they belong to the system, which takes them back under pressure.
    """

    seconds: float
    own_bytes: int


def read_bytes(path: Path) -> int:
    """Every byte of the file once: what opening cannot be faster than, unless it leaves some unread."""
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(BLOCK)
        return sum(iter(lambda: file.readinto(buffer), 0))


def copied(path: Path) -> dict[str, torch.Tensor]:
    """All tensors as copies of their own, as a loader without memory mapping holds them."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


READ, WHOLE = "read the bytes", "open and check the adapter"
WAYS: dict[str, Callable[[Path], object]] = {
    READ: read_bytes,
    "open the header": map_tensors,
    WHOLE: read_adapter,
    "copy the tensors": copied,
}


def write_adapter(path: Path, megabytes: int) -> None:
    """A PEFT adapter of about `megabytes` on the attention layers of a FLUX, in bf16, alpha in the file."""
    tensors = {}
    pair_bytes = 2 * 2 * RANK * WIDTH
    for index in range(max(1, megabytes * 2**20 // pair_bytes)):
        layer = (
            f"base_model.model.transformer_blocks.{index // 4}.attn.{('to_q', 'to_k', 'to_v', 'to_out.0')[index % 4]}"
        )
        tensors[f"{layer}.lora_A.weight"] = torch.randn(RANK, WIDTH, dtype=torch.bfloat16)
        tensors[f"{layer}.lora_B.weight"] = torch.randn(WIDTH, RANK, dtype=torch.bfloat16)
        tensors[f"{layer}.alpha"] = torch.tensor(2.0 * RANK)
    save_file(tensors, path)


def opening(way: str, path: Path) -> Opening:
    """One way, in this process, on one thread: a round to warm up, then `ROUNDS`. The memory is for one opened file."""
    torch.set_num_threads(1)
    WAYS[way](path)
    before, seconds = own_bytes(), []
    for _ in range(ROUNDS):
        started = time.process_time()  # other processes disturb it least; the file is in the cache
        held = WAYS[way](path)
        seconds.append(time.process_time() - started)
    grown = own_bytes() - before
    del held
    return Opening(median(seconds), max(0, grown))


def own_bytes() -> int:
    """This process's memory without pages of mapped files; all of it where the system does not tell them apart."""
    return (
        device_bytes("RssAnon") if sys.platform == "linux" and not torch.cuda.is_available() else device_bytes("VmRSS")
    )


def measure(megabytes: int = 700) -> tuple[int, dict[str, Opening]]:
    """The file's size in bytes, and each way's opening, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "adapter_model.safetensors")
        write_adapter(path, megabytes)
        return path.stat().st_size, {way: in_child(opening, way, path) for way in WAYS}


def table(size: int, openings: dict[str, Opening]) -> str:
    """The ratios as a Markdown table."""
    floor = openings[READ].seconds
    lines = [
        f"Opening a {size / 2**20:.0f} MB adapter, its file in the system's cache:",
        "",
        "| | processor seconds | over reading the bytes | own memory / file |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {way} | {one.seconds:.3f} | {one.seconds / floor:.2f}x | {one.own_bytes / size:.2f} |"
        for way, one in openings.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(*measure(*map(int, sys.argv[1:]))))
