"""Reads adapter files as named terms: container, keys, scale, algebra. Also finds the files of adapters and models."""

from .beside import config_files as adapter_configs
from .files import STEM, adapter_file, named_adapters
from .read import Adapter, Change, check_adapter, read_adapter
from .shards import index_files, map_model, model_files

__all__ = [
    "STEM",
    "Adapter",
    "Change",
    "adapter_configs",
    "adapter_file",
    "check_adapter",
    "index_files",
    "map_model",
    "model_files",
    "named_adapters",
    "read_adapter",
]
