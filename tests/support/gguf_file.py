"""Writes GGUF files. Importing it needs the package gguf."""

from __future__ import annotations

from pathlib import Path

import gguf
from torch import Tensor


def write(weights: dict[str, Tensor], path: Path, kind: str, architecture: str = "sd3") -> None:
    """A GGUF file as ComfyUI-GGUF's converter makes it: linear layers quantised, the rest in float32."""
    writer, quantised = gguf.GGUFWriter(str(path), architecture), gguf.GGMLQuantizationType[kind]
    for name, value in weights.items():
        own = quantised if value.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(value.float().numpy(), own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
