"""Reads adapter files as named terms: container, keys, scale, algebra. Also finds the files of adapters and models."""

from .beside import config_files as adapter_configs
from .files import STEM, adapter_file, named_adapters
from .read import Adapter, Change, check_adapter, read_adapter
from .shards import OpenModel, index_files, map_model, model_files, open_model

__all__ = [
    "STEM",
    "Adapter",
    "Change",
    "OpenModel",
    "adapter_configs",
    "adapter_file",
    "check_adapter",
    "index_files",
    "map_model",
    "model_files",
    "named_adapters",
    "open_model",
    "read_adapter",
]
